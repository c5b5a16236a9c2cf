"""Bringing a step to the devices: published once, proven on each, switched between two frames.

The repository's side makes bundles and signs them; the device's side fetches, proves and serves
them. They meet in signed files and do not import each other.

both sides   manifest  delta  _frame  _zstd                what is in a bundle, and its bytes
             roles  keys  disk  refusal                    who may sign what; writing; why not
publisher    publish  _evidence  _closed_loop  _questions  from an exported file to a signed step
             terms                                         what it has to meet
             promote  releases                             who gets it; what there is
             repository  _tree  _signing  _garbage  _undo  a repository whose changes are signed
             ceremony  carriers  serving_files  verify     by hand; for others; to try it out
device       device  orders  keeper  journal  sealed       the update, its rules, and its memory
             enrol  identity  lock                         who it is; one process at a time
             source  fetch  _transfer  _transport          what can be trusted of what arrives
             incoming  slots  engines                      from what arrived to what can be opened
             probe  _probe_child  faults                   the first run; kill points
             status  history                               what it says of itself
server       server  seat  _load  serving  trial           frames, and the exchange between two
             watch  notify  reports  metrics               when to look, and who is told
"""
