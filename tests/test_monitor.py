"""Watts, clocks and throttling are what recorded boards say, and silence is never a good sign."""

import pytest

from edgeinc.deploy._sensors import (
    Ina3221,
    Nvml,
    Rapl,
    Reading,
    Sensor,
    Tegrastats,
    emc_mhz,
    parse_tegrastats,
)
from edgeinc.deploy._thermal import Thermal, board
from edgeinc.deploy.monitor import Monitor, find_sensors, gpu_index, gpu_name

ORIN_NANO = (
    "11-20-2024 10:19:47 RAM 3120/7620MB (lfb 8x4MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [3%@1510,2%@1510,0%@1510,1%@1510,0%@729,0%@729] EMC_FREQ 2%@2133 GR3D_FREQ 97%@[611] "
    "NVDEC off NVJPG off NVJPG1 off VIC off OFA off APE 200 cpu@48.5C soc2@47.187C soc0@46.6C "
    "gpu@47.4C cv0@-256C tj@48.5C soc1@47.312C VDD_IN 4939mW/4810mW VDD_CPU_GPU_CV 563mW/563mW "
    "VDD_SOC 1491mW/1491mW"
)
AGX_ORIN = (
    "RAM 6713/30536MB (lfb 4x4MB) SWAP 0/15268MB (cached 0MB) CPU [12%@2201,off,off,4%@1420] "
    "EMC_FREQ 1%@3199 GR3D_FREQ 14%@[407,407] APE 174 CV0@73.625C CPU@77.281C Tboard@62C "
    "SOC2@70C GPU@69.125C tj@77.281C VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW "
    "VIN_SYS_5V0 4968mW/5048mW VDDQ_VDD2_1V8AO 1091mW/1091mW"
)
XAVIER = (
    "RAM 2657/15692MB (lfb 2462x4MB) SWAP 0/7846MB (cached 0MB) CPU [2%@1190,1%@1190,off,off] "
    "EMC_FREQ 0%@665 GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% AO@38C GPU@38.5C Tdiode@41C "
    "PMIC@100C AUX@37.5C CPU@38.5C thermal@38.1C Tboard@38C GPU 310/300 CPU 311/311 "
    "SOC 1090/1090 CV 0/0 VDDRQ 155/155 SYS5V 1640/1640"
)
NANO = (
    "RAM 1402/3956MB (lfb 341x4MB) IRAM 0/252kB(lfb 252kB) CPU [19%@1479,10%@1479,4%@1479,1%@1479] "
    "EMC_FREQ 0% GR3D_FREQ 0% PLL@31C CPU@34C PMIC@100C GPU@32C AO@40C thermal@33C "
    "POM_5V_IN 2532/2498 POM_5V_GPU 40/40 POM_5V_CPU 520/502"
)


@pytest.mark.parametrize(
    ("line", "expected", "emc"),
    [
        # the rail at the input is the total: the two others are parts of it
        (ORIN_NANO, Reading(watts=4.939, gpu_mhz=611, cpu_mhz=1510, celsius=48.5), 2133),
        # no input rail: 3150 + 14312 + 4968, the memory's rail is fed by the last of these
        (AGX_ORIN, Reading(watts=22.430, gpu_mhz=407, cpu_mhz=2201, celsius=77.281), 3199),
        # 310 + 311 + 1090 + 0 + 155 + 1640; PMIC always says 100 degrees
        (XAVIER, Reading(watts=3.506, gpu_mhz=318, cpu_mhz=1190, celsius=41), 665),
        (NANO, Reading(watts=2.532, cpu_mhz=1479, celsius=40), None),
        ("Cannot access fd of power monitor", Reading(), None),
    ],
    ids=["Orin Nano, L4T 36", "AGX Orin", "AGX Xavier, L4T 32", "Nano, L4T 32", "an error"],
)
def test_a_line_of_tegrastats_is_read_as_the_board_means_it(line, expected, emc):
    found = parse_tegrastats(line)
    assert found.watts == (None if expected.watts is None else pytest.approx(expected.watts))
    assert (found.gpu_mhz, found.cpu_mhz) == (expected.gpu_mhz, expected.cpu_mhz)
    assert found.celsius == expected.celsius
    assert emc_mhz(line) == emc


# ---------------------------------------------------------------------------------- sysfs


def write(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")


def orin_nano(root):
    """What an Orin Nano with JetPack 6 has in sysfs, as far as it is read."""
    power, limits = "sys/class/hwmon/hwmon1", "sys/class/hwmon/hwmon2"
    policy, gpu = "sys/devices/system/cpu/cpufreq/policy", "sys/class/devfreq/17000000.gpu"
    heat = "sys/class/thermal/thermal_zone"
    write(
        root,
        {
            "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            f"{power}/name": "ina3221",
            f"{power}/in1_label": "VDD_IN",
            f"{power}/in1_input": "4960",
            f"{power}/curr1_input": "1250",
            f"{power}/in2_label": "VDD_CPU_GPU_CV",
            f"{power}/in2_input": "4960",
            f"{power}/curr2_input": "300",
            f"{power}/in3_label": "VDD_SOC",
            f"{power}/in3_input": "4952",
            f"{power}/curr3_input": "304",
            f"{power}/in7_label": "sum of shunt voltages",
            f"{power}/in7_input": "3000",
            "sys/class/hwmon/hwmon0/name": "pwmfan",
            f"{limits}/name": "soctherm_oc",
            f"{limits}/oc1_event_cnt": "0",
            f"{limits}/oc3_event_cnt": "7",
            f"{limits}/oc3_throt_en": "1",
            "sys/class/thermal/cooling_device0/type": "pwm-fan",
            "sys/class/thermal/cooling_device0/cur_state": "2",
            "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert",
            "sys/class/thermal/cooling_device1/cur_state": "0",
            "sys/class/thermal/cooling_device2/type": "cpufreq-cpu0",
            "sys/class/thermal/cooling_device2/cur_state": "0",
            f"{heat}0/type": "cpu-thermal",
            f"{heat}0/temp": "48500",
            f"{heat}1/type": "gpu-thermal",
            f"{heat}1/temp": "51250",
            f"{heat}2/type": "cv0-thermal",  # without power: no temperature
            f"{policy}0/scaling_cur_freq": "1510400",
            f"{policy}0/scaling_min_freq": "1510400",
            f"{policy}0/scaling_max_freq": "1510400",
            f"{policy}4/scaling_cur_freq": "729600",
            f"{policy}4/scaling_min_freq": "729600",
            f"{policy}4/scaling_max_freq": "1510400",
            f"{gpu}/cur_freq": "611000000",
            f"{gpu}/min_freq": "306000000",
            f"{gpu}/max_freq": "624750000",
            "sys/class/devfreq/15340000.vic/cur_freq": "115200000",
        },
    )
    return root


def test_the_power_of_a_jetson_is_volts_times_amperes_at_its_input(tmp_path):
    sensor = Ina3221.find(orin_nano(tmp_path))
    assert sensor.read().watts == pytest.approx(4.960 * 1.250)
    assert "VDD_IN" in sensor.name
    assert sensor.covers == "board"
    (tmp_path / "sys/class/hwmon/hwmon1/curr1_input").write_text("2000\n")
    assert sensor.read().watts == pytest.approx(4.960 * 2.000)


def test_an_agx_has_two_chips_and_its_memory_does_not_count_twice(tmp_path):
    first, second = "sys/class/hwmon/hwmon3", "sys/class/hwmon/hwmon4"
    files = {f"{first}/name": "ina3221", f"{second}/name": "ina3221"}
    rails = [
        (first, 1, "VDD_GPU_SOC", 19000, 400),
        (first, 2, "VDD_CPU_CV", 19000, 100),
        (first, 3, "VIN_SYS_5V0", 4968, 1000),
        (second, 1, "NC", 0, 0),
        (second, 2, "VDDQ_VDD2_1V8AO", 4968, 300),
    ]
    for chip, n, name, millivolts, milliamperes in rails:
        files |= {
            f"{chip}/in{n}_label": name,
            f"{chip}/in{n}_input": millivolts,
            f"{chip}/curr{n}_input": milliamperes,
        }
    write(tmp_path, files)
    assert Ina3221.find(tmp_path).read().watts == pytest.approx(19 * 0.4 + 19 * 0.1 + 4.968)


def test_a_machine_without_sensors_has_none(tmp_path):
    assert Ina3221.find(tmp_path) is None
    assert Rapl.find(tmp_path) is None
    assert find_sensors(tmp_path, gpu=None) == []
    assert board(tmp_path) is None
    assert gpu_name(tmp_path) == ""


def test_a_rail_that_vanishes_raises(tmp_path):
    sensor = Ina3221.find(orin_nano(tmp_path))
    (tmp_path / "sys/class/hwmon/hwmon1/curr1_input").unlink()
    with pytest.raises(OSError, match="curr1_input"):
        sensor.read()


def test_heat_clocks_and_limits_of_a_jetson_need_no_root(tmp_path):
    found = Thermal(orin_nano(tmp_path)).read()
    assert found == Reading(throttled=False, events=7, gpu_mhz=611, cpu_mhz=1510.4, celsius=51.25)


@pytest.mark.parametrize(
    ("device", "state", "throttled"),
    [(0, 3, False), (1, 1, True), (2, 4, True)],
    ids=["a fan", "an alert", "a slower clock"],
)
def test_only_what_takes_speed_is_throttling(tmp_path, device, state, throttled):
    sensor = Thermal(orin_nano(tmp_path))
    state_file = tmp_path / f"sys/class/thermal/cooling_device{device}/cur_state"
    state_file.write_text(f"{state}\n")
    assert sensor.read().throttled is throttled


def test_a_processor_counts_how_often_it_was_throttled(tmp_path):
    cpu = "sys/devices/system/cpu/cpu{}/thermal_throttle/{}_throttle_count"
    write(
        tmp_path,
        {
            cpu.format(0, "core"): 3,
            cpu.format(0, "package"): 5,
            cpu.format(1, "core"): 0,
            cpu.format(1, "package"): 5,
        },
    )
    sensor = Thermal(tmp_path)
    assert (sensor.covers, sensor.read()) == ("cpu", Reading(events=13))


def test_the_energy_of_a_processor_survives_the_end_of_its_counter(tmp_path):
    zone = "sys/class/powercap/intel-rapl:0"
    write(
        tmp_path,
        {
            f"{zone}/name": "package-0",
            f"{zone}/energy_uj": 900_000_000,
            f"{zone}/max_energy_range_uj": 1_000_000_000,
            f"{zone}:0/name": "core",  # a part of the package
            f"{zone}:0/energy_uj": 5,
        },
    )
    sensor = Rapl.find(tmp_path)
    assert sensor.read().joules == 0
    (tmp_path / zone / "energy_uj").write_text("950000000\n")
    assert sensor.read().joules == pytest.approx(50)
    (tmp_path / zone / "energy_uj").write_text("20000000\n")
    assert sensor.read().joules == pytest.approx(50 + 70)


def test_a_jetson_says_how_it_is_set(tmp_path):
    answers = {"nvpmodel -q": "NV Power Mode: 15W\n0\n"}
    found = board(orin_nano(tmp_path), command=lambda w: answers[" ".join(w)], tegrastats=ORIN_NANO)
    assert found.model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert (found.l4t, found.power_mode, found.clocks_locked) == ("36.4.3", "15W", False)
    assert found.mhz == {"cpu": 1510.4, "gpu": 611.0, "emc": 2133.0}
    assert found.celsius == {"cpu-thermal": 48.5, "gpu-thermal": 51.25}


def test_locked_clocks_have_no_room_between_lowest_and_highest(tmp_path):
    root = orin_nano(tmp_path)
    (root / "sys/devices/system/cpu/cpufreq/policy4/scaling_min_freq").write_text("1510400\n")
    assert board(root, command=lambda w: "").clocks_locked is False
    (root / "sys/class/devfreq/17000000.gpu/min_freq").write_text("624750000\n")
    found = board(root, command=lambda w: "")
    assert (found.clocks_locked, found.power_mode) == (True, "")


def test_the_driver_names_the_gpu_without_a_library(tmp_path):
    write(
        tmp_path,
        {"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t NVIDIA A2000\nIRQ: 9"},
    )
    assert gpu_name(tmp_path) == "NVIDIA A2000"


@pytest.mark.parametrize(
    ("device", "visible", "index"),
    [("auto", None, 0), ("cuda:1", None, 1), ("cuda:1", "4,6", 6), ("cuda", "GPU-1f", 0)],
)
def test_the_gpu_that_is_watched_is_the_one_that_computes(monkeypatch, device, visible, index):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_index(device) == index


# ---------------------------------------------------------------------------------- NVML


class Driver:
    """The calls of nvidia-ml-py that are used, with a desktop GPU's recorded answers."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self, *, counts=True, reasons=0x1, lost=False):
        self.counts, self.reasons, self.lost = counts, reasons, lost

    def __getattr__(self, name):
        answers = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetName": b"NVIDIA GeForce RTX 3060",
            "nvmlDeviceGetTotalEnergyConsumption": 1_234_500,
            "nvmlDeviceGetPowerUsage": 151_300,
            "nvmlDeviceGetCurrentClocksThrottleReasons": self.reasons,
            "nvmlDeviceGetClockInfo": 1777,
            "nvmlDeviceGetTemperature": 66,
        }
        if name not in answers:
            raise AttributeError(name)

        def call(*arguments):
            uncounted = name == "nvmlDeviceGetTotalEnergyConsumption" and not self.counts
            if uncounted or (self.lost and "Get" in name):
                raise self.NVMLError("not supported")
            return answers[name]

        return call


def test_a_desktop_gpu_counts_its_energy_or_gives_its_power():
    counting, older = Nvml(Driver()), Nvml(Driver(counts=False))
    assert counting.read() == Reading(joules=1234.5, throttled=False, gpu_mhz=1777, celsius=66)
    assert older.read() == Reading(watts=151.3, throttled=False, gpu_mhz=1777, celsius=66)
    assert older.lag_s > counting.lag_s
    assert "RTX 3060" in counting.name


@pytest.mark.parametrize(
    ("reasons", "throttled"),
    [
        (0x0, False),
        (0x1, False),
        (0x4, False),
        (0x8, True),
        (0x20, True),
        (0x40, True),
        (0x84, True),
    ],
    ids=["none", "idle", "power limit", "hardware", "heat", "heat by hardware", "brake"],
)
def test_the_bits_decide_about_a_gpu(reasons, throttled):
    assert Nvml(Driver(reasons=reasons)).read().throttled is throttled


def test_a_gpu_that_is_lost_raises():
    driver = Driver()
    sensor = Nvml(driver)
    driver.lost = True
    with pytest.raises(OSError, match="NVML"):
        sensor.read()


# ---------------------------------------------------------------------------------- turns


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


class Script(Sensor):
    """A sensor that plays what it is given by the time on the clock; None is silence."""

    name = "script"

    def __init__(self, clock, play, *, covers="board", lag_s=0.0, power=True):
        self.clock, self.play, self.covers, self.lag_s = clock, play, covers, lag_s
        self.measures_power = power

    def read(self):
        reading = self.play(self.clock.now)
        if reading is None:
            raise OSError("gone")
        return reading


def watched(clock, sensors, *, seconds=10.0, interval=0.1):
    """A monitor that looked ten times a second from 50.0 on."""
    monitor = Monitor(sensors, clock=clock)
    for i in range(round(seconds / interval) + 1):
        clock.now = 50.0 + i * interval
        monitor.sample()
    return monitor


def by_second(*watts):
    """Power that changes at every full second."""
    return lambda now: Reading(watts=float(watts[int((now - 50.0 + 1e-6) // 1) % len(watts)]))


def test_a_variant_answers_for_its_own_turns_only():
    clock = Clock()
    monitor = watched(clock, [Script(clock, by_second(4, 20))])
    first = monitor.seen([(50.2, 50.8), (52.2, 52.8)], "gpu").watts
    second = monitor.seen([(51.2, 51.8), (53.2, 53.8)], "gpu").watts
    assert (first, second) == (pytest.approx(4), pytest.approx(20))


def test_a_turn_that_power_changes_in_has_its_mean():
    clock = Clock()
    monitor = watched(clock, [Script(clock, lambda now: Reading(watts=now - 50))])
    assert monitor.seen([(52, 56)], "cpu").watts == pytest.approx(4)


def test_counted_energy_is_divided_by_the_time():
    clock = Clock()
    monitor = watched(clock, [Script(clock, lambda now: Reading(joules=7 * now))])
    assert monitor.seen([(52, 52.5), (55, 56)], "cpu").watts == pytest.approx(7)


def test_a_sensor_that_remembers_the_turn_before_is_asked_later():
    clock = Clock()

    def late(now):  # shows 4 W for half a second after 20 W began
        return Reading(watts=20.0 if now >= 52.45 else 4.0)

    prompt = watched(clock, [Script(clock, late)]).seen([(52, 54)], "gpu").watts
    patient = watched(clock, [Script(clock, late, lag_s=0.5)])
    assert prompt == pytest.approx((0.4 * 4 + 0.1 * 12 + 1.5 * 20) / 2)
    assert patient.lag_s == 0.5
    assert patient.seen([(52, 54)], "gpu").watts == pytest.approx(20)
    assert patient.seen([(52, 52.5)], "gpu").watts is None
    # turns without anybody else in between are one
    assert patient.seen([(52 + i / 2, 52.5 + i / 2) for i in range(4)], "gpu").watts == (
        pytest.approx(20)
    )


def test_a_sensor_of_the_gpu_says_nothing_about_the_cpu():
    clock = Clock()
    sensors = [
        Script(clock, lambda now: Reading(watts=150.0, throttled=True), covers="gpu"),
        Script(clock, lambda now: Reading(watts=30.0, throttled=False), covers="cpu"),
    ]
    monitor = watched(clock, sensors)
    on_gpu, on_cpu = (monitor.seen([(51, 52)], kind) for kind in ("gpu", "cpu"))
    assert (on_gpu.watts, on_gpu.throttled) == (pytest.approx(150), True)
    assert (on_cpu.watts, on_cpu.throttled) == (pytest.approx(30), False)


def flag(begin, end):
    return lambda now: Reading(throttled=begin <= now <= end)


def count(*times):
    return lambda now: Reading(events=3 + sum(now >= t for t in times))


@pytest.mark.parametrize(
    ("play", "throttled"),
    [
        (flag(0, 0), False),
        (flag(52.4, 52.6), True),
        (flag(53.5, 54.5), False),
        (count(52.43), True),
        (count(51, 54), False),
        (lambda now: None, None),
        (lambda now: Reading(throttled=False) if now < 52.3 else None, None),
        (lambda now: Reading(throttled=False) if not 52.1 < now < 52.8 else None, None),
        (lambda now: Reading(throttled=now > 52.1) if now < 52.3 else None, True),
        (lambda now: Reading(watts=5.0), None),
    ],
    ids=[
        "clean",
        "slowed down",
        "slowed down in the turn of another",
        "an event between two looks",
        "events in the turns of others",
        "never answered",
        "died",
        "slept",
        "died after it had seen enough",
        "does not watch",
    ],
)
def test_only_a_watcher_that_was_awake_certifies_a_turn(play, throttled):
    clock = Clock()
    monitor = watched(clock, [Script(clock, play)])
    assert monitor.seen([(52, 53)], "gpu").throttled is throttled


def test_one_dead_watcher_of_two_leaves_the_verdict_open():
    clock = Clock()
    dies = Script(clock, lambda now: Reading(throttled=False) if now < 52 else None)
    monitor = watched(clock, [Script(clock, flag(0, 0)), dies])
    assert monitor.seen([(51, 51.5)], "gpu").throttled is False
    assert monitor.seen([(52, 53)], "gpu").throttled is None


def test_power_is_unknown_where_the_sensor_slept():
    clock = Clock()
    sleeps = Script(clock, lambda now: Reading(watts=5.0) if not 52.1 < now < 52.8 else None)
    monitor = watched(clock, [sleeps])
    assert monitor.seen([(52, 53)], "gpu").watts is None
    assert monitor.seen([(53, 54)], "gpu").watts == pytest.approx(5)


def test_clocks_are_means_and_heat_is_the_highest():
    clock = Clock()
    sensor = Script(clock, lambda now: Reading(gpu_mhz=600 + now - 50, celsius=now))
    seen = watched(clock, [sensor]).seen([(51, 53)], "gpu")
    assert seen.gpu_mhz == pytest.approx(602)
    assert seen.celsius == pytest.approx(53)
    assert (seen.cpu_mhz, seen.watts, seen.throttled) == (None, None, None)


def test_power_at_rest_is_kept():
    clock = Clock()
    monitor = watched(clock, [Script(clock, lambda now: Reading(watts=3.5), covers="gpu")])
    monitor.idle((51, 52))
    (meter,) = monitor.meters()
    assert (meter.name, meter.covers, meter.idle_watts) == ("script", "gpu", pytest.approx(3.5))


def test_without_a_sensor_everything_is_unknown():
    with Monitor([]) as monitor:
        assert set(vars(monitor.seen([(0.0, 1.0)], "cpu")).values()) == {None}
        assert monitor.meters() == ()


def test_the_thread_looks_often_enough_to_certify(tmp_path):
    with Monitor(find_sensors(orin_nano(tmp_path), gpu=None), interval_s=0.02) as monitor:
        monitor.sample()
        begin = monitor.clock()
        while monitor.clock() - begin < 0.3:
            pass
        seen = monitor.seen([(begin + 0.05, monitor.clock())], "gpu")
    assert seen.throttled is False
    assert seen.gpu_mhz == pytest.approx(611)
    assert seen.celsius == 51.25


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_certifies_nothing():
    class Bug(Sensor):
        name, covers, measures_power, broken = "bug", "board", True, False

        def read(self):
            if self.broken:
                raise SystemExit  # ends a thread without a word
            return Reading(watts=5.0, throttled=False)

    bug = Bug()
    with Monitor([bug], interval_s=0.01) as monitor:
        monitor.sample()
        begin = monitor.clock()
        bug.broken = True
        monitor._thread.join(timeout=5)
        bug.broken = False
        seen = monitor.seen([(begin, monitor.clock())], "gpu")
    assert (seen.watts, seen.throttled) == (None, None)


def test_tegrastats_that_fell_silent_is_not_believed():
    clock = Clock()
    sensor = Tegrastats([XAVIER, ORIN_NANO], clock=clock)
    sensor.reader.join(timeout=5)
    assert sensor.read().watts == pytest.approx(4.939)
    assert sensor.line == ORIN_NANO
    clock.now += 1.5
    with pytest.raises(OSError, match="silent"):
        sensor.read()


def test_tegrastats_is_asked_where_there_is_no_monitor_in_sysfs(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "tegrastats"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nwhile :; do echo "$* {ORIN_NANO}"; sleep 0.1; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    (sensor,) = find_sensors(tmp_path / "empty", gpu=None)
    try:
        for _ in range(100):
            if sensor.line:
                break
            sensor.reader.join(timeout=0.05)
        assert sensor.line.startswith("--interval 100 ")
        assert sensor.read().watts == pytest.approx(4.939)
    finally:
        sensor.close()
    sensor.reader.join(timeout=5)
    assert not sensor.reader.is_alive()
