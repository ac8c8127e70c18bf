"""Reads one card through pynvml, reading by reading."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from p104d.core.card import CardIdentity, CardReading, CardReport, ProcessUse
from p104d.core.units import MIB
from p104d.policy.health import throttle_names

#: Seconds between slow questions: fan and link, and the process list where memory did not change.
SLOW_SECONDS = 5.0
PROCESS_SECONDS = 10.0
#: The driver counts for 20 ms before it answers each of the two PCIe questions.
PCIE_SECONDS = 10.0
#: A change of used memory that makes the process list worth its 4.5 ms.
_MEMORY_CHANGE_BYTES = MIB
#: Identity that could not be read is asked for again after this long.
_IDENTITY_SECONDS = 10.0

#: nvmlClocksEventReasonGpuIdle of nvml.h.
_IDLE = 0x1


class DriverGone(Exception):
    """The driver was unloaded or reloaded: everything opened before is void."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def text_of(value: Any) -> str:
    """NVML's text, which older pynvml gives as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def throttle_words(mask: int | None) -> tuple[str, ...]:
    """NVML's throttle mask in words; the idle bit is no throttling, and a mask that was not told says nothing."""
    return throttle_names(mask & ~_IDLE) if mask else ()


class CardReader:
    """One card, known by UUID and bus address. ``module`` is pynvml."""

    def __init__(self, module: Any, uuid: str, bus_id: str) -> None:
        self._nvml = module
        self.uuid, self.bus_id = uuid, bus_id
        self.index = -1
        self.handle: Any = None
        self.listening = False
        self.fault: str | None = None
        self._fault_text: str | None = None
        self._identity: CardIdentity | None = None
        self._identity_at = float("-inf")
        self._absent: set[str] = set()
        self._answers = 0
        self._unknown: Exception | None = None
        self._slow_at = self._processes_at = float("-inf")
        self._slow: dict[str, Any] = {}
        self._pcie_at = float("-inf")
        self._pcie: dict[str, Any] = {}
        self._memory_seen: int | None = None
        self._memory_v2 = True
        # Cards take turns with their slow questions, so that no cycle asks all of them.
        self._stagger = zlib.crc32(uuid.encode()) % 1000 / 1000

    def take(self, handle: Any, index: int) -> None:
        """The card was found (again) at ``index``."""
        self.handle, self.index = handle, index

    def forget(self) -> None:
        """The driver was closed: handles are void, and what it did not support the next one may."""
        self.handle, self.listening = None, False
        self._identity_at = self._slow_at = self._processes_at = self._pcie_at = float("-inf")
        self._absent.clear()
        self._memory_v2 = True

    def lose(self, error: Exception) -> None:
        """The card is counted, but could not be opened."""
        if self.handle is None:
            self.fault, self._fault_text = self._fault_of(error), str(error)

    def changed(self) -> None:
        """Something was set on the card: what is read but seldom is read at the next look."""
        self._slow_at = float("-inf")

    def report(self, now: float) -> CardReport:
        """What the card says now. Raises DriverGone where the driver itself went away."""
        if self.handle is not None:
            self.fault = self._fault_text = None
            self._answers = 0
            self._unknown = None
            reading = self._read(now)
            self._judge_silence()
        else:
            reading = CardReading()
        if self.fault is not None:
            # A fault may be a passing one: what was not told meanwhile is asked anew.
            self._slow_at = self._processes_at = self._pcie_at = float("-inf")
        return CardReport(identity=self._identify(now), reading=reading, fault=self.fault, fault_text=self._fault_text)

    def _judge_silence(self) -> None:
        """Not one answer, and UNKNOWN among the refusals: it is the card, not a reading that it lacks."""
        if self.fault is None and self._unknown is not None and not self._answers:
            self.fault, self._fault_text = "unknown", str(self._unknown)

    def _ask(self, name: str, *arguments: Any) -> Any:
        """The answer of pynvml's function ``name`` on this card; None where there is none."""
        if name in self._absent or self.fault is not None:
            return None
        nvml = self._nvml
        try:
            answer = getattr(nvml, name)(self.handle, *arguments)
        except nvml.NVMLError as error:
            self._failed(name, error)
            return None
        except AttributeError:
            self._absent.add(name)  # a pynvml too old for the function
            return None
        except (UnicodeDecodeError, ValueError, OverflowError, TypeError):
            return None  # an answer that is no answer
        self._answers += 1
        return answer

    def _failed(self, name: str, error: Any) -> None:
        nvml, code = self._nvml, error.value
        if code in (nvml.NVML_ERROR_UNINITIALIZED, nvml.NVML_ERROR_DRIVER_NOT_LOADED):
            raise DriverGone(error)
        if code in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
            self._absent.add(name)
        elif code == nvml.NVML_ERROR_UNKNOWN:
            self._unknown = error
        elif code in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
            self.fault, self._fault_text = self._fault_of(error), str(error)

    def _fault_of(self, error: Any) -> str:
        code = getattr(error, "value", None)
        if code == self._nvml.NVML_ERROR_RESET_REQUIRED:
            return "reset_required"
        return "unknown" if code == self._nvml.NVML_ERROR_UNKNOWN else "lost"

    def _number(self, name: str, *arguments: Any, most: int, least: int = 0) -> int | None:
        """An answer within bounds: drivers say "not available" with all bits set, too."""
        answer = self._ask(name, *arguments)
        return answer if isinstance(answer, int) and least <= answer <= most else None

    def _watts(self, name: str) -> float | None:
        milliwatts = self._number(name, most=5_000_000)
        return None if milliwatts is None else milliwatts / 1000

    def _read(self, now: float) -> CardReading:
        nvml = self._nvml
        memory = self._memory()
        used = None if memory is None else int(memory.used)
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        temperature = self._number("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU, most=150, least=-40)
        power = self._watts("nvmlDeviceGetPowerUsage")
        sm_clock = self._number("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM, most=20_000)
        memory_clock = self._number("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM, most=50_000)
        throttle = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", most=2**63)
        processes = self._processes(now, used)
        slow = self._slow_readings(now) | self._pcie_readings(now)
        return CardReading(
            memory_used_bytes=used,
            temperature_celsius=temperature,
            power_watts=power,
            utilization_percent=None if rates is None or rates.gpu > 100 else int(rates.gpu),
            memory_utilization_percent=None if rates is None or rates.memory > 100 else int(rates.memory),
            sm_clock_mhz=sm_clock,
            memory_clock_mhz=memory_clock,
            throttle=throttle_words(throttle),
            processes=processes,
            **(slow if self.fault is None else {}),
        )

    def _memory(self) -> Any:
        """Version 2 tells apart what the driver keeps for itself; drivers before 510 know only version 1."""
        if self._memory_v2:
            memory = self._ask("nvmlDeviceGetMemoryInfo", getattr(self._nvml, "nvmlMemory_v2", None))
            if memory is not None or "nvmlDeviceGetMemoryInfo" not in self._absent:
                return memory
            self._absent.discard("nvmlDeviceGetMemoryInfo")
            self._memory_v2 = False
        return self._ask("nvmlDeviceGetMemoryInfo")

    def _processes(self, now: float, used: int | None) -> tuple[ProcessUse, ...] | None:
        seen = self._memory_seen
        changed = used is not None and (seen is None or abs(used - seen) > _MEMORY_CHANGE_BYTES)
        if not changed and now - self._processes_at < PROCESS_SECONDS:
            return None
        found = self._ask("nvmlDeviceGetComputeRunningProcesses")
        if found is None:
            return None
        self._processes_at, self._memory_seen = now, used
        return tuple(ProcessUse(pid=int(one.pid), memory_bytes=_bytes(one.usedGpuMemory)) for one in found)

    def _slow_readings(self, now: float) -> dict[str, Any]:
        nvml = self._nvml
        if now - self._slow_at >= SLOW_SECONDS:
            first = self._slow_at == float("-inf")
            self._slow_at = now - (self._stagger * SLOW_SECONDS if first else 0.0)
            persistence = self._ask("nvmlDeviceGetPersistenceMode")
            # One fan speaks for all of a card's: they are set together.
            fan_policy = self._number("nvmlDeviceGetFanControlPolicy_v2", 0, most=1)
            self._slow = {
                "power_limit_watts": self._watts("nvmlDeviceGetPowerManagementLimit"),
                "fan_percent": self._number("nvmlDeviceGetFanSpeed", most=200),
                "link_generation": self._number("nvmlDeviceGetCurrPcieLinkGeneration", most=9, least=1),
                "link_width": self._number("nvmlDeviceGetCurrPcieLinkWidth", most=32, least=1),
                "persistence": None if persistence is None else bool(persistence),
                "fan_manual": None if fan_policy is None else fan_policy == nvml.NVML_FAN_POLICY_MANUAL,
            }
        return self._slow

    def _pcie_readings(self, now: float) -> dict[str, Any]:
        """Bytes a second over the link, asked so seldom that the wait hardly counts; cards take turns."""
        if now - self._pcie_at >= PCIE_SECONDS:
            first = self._pcie_at == float("-inf")
            self._pcie_at = now - (self._stagger * PCIE_SECONDS if first else 0.0)
            self._pcie = {
                "pcie_receive_bytes_per_second": self._throughput(self._nvml.NVML_PCIE_UTIL_RX_BYTES),
                "pcie_transmit_bytes_per_second": self._throughput(self._nvml.NVML_PCIE_UTIL_TX_BYTES),
            }
        return self._pcie

    def _throughput(self, counter: int) -> int | None:
        kilobytes = self._number("nvmlDeviceGetPcieThroughput", counter, most=64_000_000)
        return None if kilobytes is None else kilobytes * 1000

    def _identify(self, now: float) -> CardIdentity:
        """Read once; what could not be read then is tried again every few seconds."""
        old = self._identity
        complete = old is not None and None not in (old.name, old.vbios, old.memory_total_bytes, old.device_id)
        due = self._identity_at == float("-inf") or (not complete and now - self._identity_at >= _IDENTITY_SECONDS)
        if due and self.handle is not None and self.fault is None:
            self._identity_at = now
            self._identity = self._read_identity(old)
        elif old is None:
            return CardIdentity(uuid=self.uuid, index=self.index, bus_id=self.bus_id)
        elif old.index != self.index:
            self._identity = msgspec.structs.replace(old, index=self.index)
        assert self._identity is not None
        return self._identity

    def _read_identity(self, old: CardIdentity | None) -> CardIdentity:
        pci = self._ask("nvmlDeviceGetPciInfo")
        memory = self._memory()
        bounds = self._ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
        capability = self._ask("nvmlDeviceGetCudaComputeCapability")
        values: dict[str, Any] = {
            "name": self._text("nvmlDeviceGetName"),
            "device_id": _pci_id(pci and pci.pciDeviceId),
            "subsystem_id": _pci_id(pci and pci.pciSubSystemId),
            "vbios": self._text("nvmlDeviceGetVbiosVersion"),
            "memory_total_bytes": int(memory.total) if memory is not None and memory.total else None,
            "link_generation_max": self._number("nvmlDeviceGetMaxPcieLinkGeneration", most=9, least=1),
            "link_width_max": self._number("nvmlDeviceGetMaxPcieLinkWidth", most=32, least=1),
            "power_limit_min_watts": _from_milli(bounds[0]),
            "power_limit_max_watts": _from_milli(bounds[1]),
            "power_limit_default_watts": self._watts("nvmlDeviceGetPowerManagementDefaultLimit"),
            "slowdown_celsius": self._threshold(self._nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
            "shutdown_celsius": self._threshold(self._nvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN),
            "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        }
        if old is not None and self.fault is not None:
            values = {key: getattr(old, key) if value is None else value for key, value in values.items()}
        return CardIdentity(uuid=self.uuid, index=self.index, bus_id=self.bus_id, **values)

    def _threshold(self, kind: int) -> int | None:
        return self._number("nvmlDeviceGetTemperatureThreshold", kind, least=40, most=150)

    def _text(self, name: str) -> str | None:
        answer = self._ask(name)
        return text_of(answer) or None if answer is not None else None


def _bytes(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and value < 2**60 else None


def _from_milli(value: Any) -> float | None:
    return value / 1000 if isinstance(value, int) and value < 5_000_000 else None


def _pci_id(number: Any) -> str | None:
    """``10de:1b87`` from NVML's number, whose low half is the vendor."""
    return f"{number & 0xFFFF:04x}:{number >> 16:04x}" if isinstance(number, int) and number else None
