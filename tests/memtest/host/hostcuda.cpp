// A CUDA driver library for tests: the driver API's functions that the memory test calls, on real memory of the host,
// with the very kernels of p104d/memtest/kernels/memtest.cu. "The card's memory" is what host_configure says: physical
// memory (a memfd each) seen through windows, so that two windows on the same bytes really alias, and planted faults.
//
// host_configure takes lines (also from the variable P104_HOSTCUDA when the library is loaded; `#` begins a comment):
//
//   memory ID BYTES                          physical memory; sizes may end in K, M, G
//   map ID OFFSET BYTES                      the next window of the card's address space; the order is the addresses'
//   stick ID OFFSET BIT VALUE                bit 0-7 of that byte always holds VALUE
//   flip ID OFFSET BIT AFTER                 flips once, after the AFTER-th launch from now
//   fade ID OFFSET BIT VALUE MILLISECONDS    becomes VALUE whenever nothing touched the memory for so long
//   fail CALL CODE AFTER                     CALL answers CODE from its AFTER+1-th use on; CODE -1: never answers
//   reserve BYTES                            of the memory belong to "the driver": total, but not free
//   granule BYTES                            allocations are multiples of it (default 512)
//   plain_below BYTES                        smaller allocations are not the card's memory (default 1M): records of
//                                            findings must not lie in memory that aliases
//   threads N                                threads of a block; 0: as launched. The default, 1, is three times as fast
//                                            here, and a kernel finds the same with any number
//   uuid HEX32 / name TEXT                   what the card says it is
//
// Streams run at once, events are real times. Kernels may be launched only on memory that is allocated, as on a card.
// Everything stands in one process-wide state and is not safe for threads.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

struct { unsigned thread, threads, block, blocks; } static self;
#include "memtest.cu"

#define EXPORT extern "C" __attribute__((visibility("default")))

enum Result {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201, INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700,
};

// --- memory ------------------------------------------------------------------------------------------------------

struct Physical { int fd; uint8_t *bytes; uint64_t size; };
struct Window { int id; uint64_t offset, size; };
struct Stuck { int id; uint64_t offset; int bit, value; };
struct Flip { int id; uint64_t offset; int bit; uint64_t launch; };
struct Fade { int id; uint64_t offset; int bit, value; double milliseconds; };
struct Failure { int code; uint64_t after; };
struct Event { double at; };

static const uint64_t SPACE = 1ull << 36;  // of addresses, reserved once; not memory

struct State {
    std::map<int, Physical> physical;
    std::vector<Window> windows;
    std::vector<Stuck> stuck;
    std::vector<Flip> flips;
    std::vector<Fade> fades;
    std::map<std::string, Failure> failures;
    std::map<std::string, uint64_t> calls;
    std::map<uint64_t, uint64_t> large, plain;  // address -> bytes, of what is allocated
    uint8_t *space = nullptr;
    uint64_t mapped = 0, reserve = 0, granule = 512, plain_below = 1 << 20, launches = 0;
    double touched = 0;
    uint64_t threads = 1;
    int initialised = 0, contexts = 0, modules = 0, broken = 0;
    std::string uuid = "00112233445566778899aabbccddeeff", name = "Host memory";
};

static State *state = nullptr;

static double now_milliseconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void set_bit(int id, uint64_t offset, int bit, int value) {
    uint8_t &byte = state->physical[id].bytes[offset];
    byte = (uint8_t)((byte & ~(1 << bit)) | value << bit);
}

static void apply_stuck() {
    for (const Stuck &s : state->stuck) set_bit(s.id, s.offset, s.bit, s.value);
}

static void fade_all() {
    for (const Fade &f : state->fades) set_bit(f.id, f.offset, f.bit, f.value);
}

// Around everything that reads or writes the card's memory: what faded while nobody came by, and what is stuck.
struct Touch {
    Touch() {
        const double idle = now_milliseconds() - state->touched;
        for (const Fade &f : state->fades)
            if (idle > f.milliseconds) set_bit(f.id, f.offset, f.bit, f.value);
    }
    ~Touch() {
        apply_stuck();
        state->touched = now_milliseconds();
    }
};

static void clear() {
    if (!state) return;
    for (auto &p : state->physical) {
        munmap(p.second.bytes, p.second.size);
        close(p.second.fd);
    }
    for (auto &p : state->plain) free((void *)p.first);
    if (state->space) munmap(state->space, SPACE);
    delete state;
}

EXPORT void host_reset() {
    clear();
    state = new State;
    void *space = mmap(nullptr, SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) abort();
    state->space = (uint8_t *)space;
}

static bool add_memory(int id, uint64_t size) {
    const int fd = memfd_create("card", MFD_CLOEXEC);
    if (fd < 0 || state->physical.count(id) || ftruncate(fd, (off_t)size)) return false;
    void *bytes = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) return false;
    state->physical[id] = {fd, (uint8_t *)bytes, size};
    return true;
}

static bool add_window(int id, uint64_t offset, uint64_t size) {
    const auto found = state->physical.find(id);
    if (found == state->physical.end() || offset + size > found->second.size) return false;
    if (state->mapped + size > SPACE) return false;
    void *wanted = state->space + state->mapped;
    const int flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE;  // a million page faults one by one take seconds
    if (mmap(wanted, size, PROT_READ | PROT_WRITE, flags, found->second.fd, (off_t)offset) != wanted) return false;
    state->windows.push_back({id, offset, size});
    state->mapped += size;
    return true;
}

static bool number(std::istringstream &words, uint64_t &value) {
    std::string text;
    if (!(words >> text)) return false;
    char *end;
    value = strtoull(text.c_str(), &end, 0);
    const std::string unit = end;
    const int shift = unit == "K" ? 10 : unit == "M" ? 20 : unit == "G" ? 30 : 0;
    value <<= shift;
    return end != text.c_str() && (shift || unit.empty());
}

template <class... More> static bool numbers(std::istringstream &words, More &...values) {
    return (number(words, values) && ...);
}

static bool inside(uint64_t id, uint64_t offset, uint64_t bit, uint64_t value) {
    const auto found = state->physical.find((int)id);
    return found != state->physical.end() && offset < found->second.size && bit < 8 && value < 2;
}

static bool configure_fault(const std::string &verb, std::istringstream &words) {
    uint64_t id, offset, bit, value = 0, last = 0;
    if (!numbers(words, id, offset, bit)) return false;
    if (verb == "flip" ? !number(words, last) : !number(words, value)) return false;
    if (verb == "fade" && !number(words, last)) return false;
    if (!inside(id, offset, bit, value)) return false;
    if (verb == "stick") state->stuck.push_back({(int)id, offset, (int)bit, (int)value});
    if (verb == "flip") state->flips.push_back({(int)id, offset, (int)bit, state->launches + last});
    if (verb == "fade") state->fades.push_back({(int)id, offset, (int)bit, (int)value, (double)last});
    apply_stuck();
    return true;
}

static bool configure_line(const std::string &line) {
    std::istringstream words(line);
    std::string verb, call;
    uint64_t id, offset, size;
    if (!(words >> verb) || verb[0] == '#') return true;
    if (verb == "memory") return numbers(words, id, size) && add_memory((int)id, size);
    if (verb == "map") return numbers(words, id, offset, size) && add_window((int)id, offset, size);
    if (verb == "stick" || verb == "flip" || verb == "fade") return configure_fault(verb, words);
    if (verb == "reserve") return number(words, state->reserve);
    if (verb == "granule") return number(words, state->granule) && state->granule % 512 == 0 && state->granule;
    if (verb == "plain_below") return number(words, state->plain_below);
    if (verb == "threads") return number(words, state->threads) && state->threads <= 256;
    if (verb == "uuid") return (words >> state->uuid) && state->uuid.size() == 32;
    if (verb == "name") return (bool)std::getline(words >> std::ws, state->name);
    int code;
    if (verb != "fail" || !(words >> call >> code) || !number(words, size)) return false;
    state->failures[call] = {code, state->calls[call] + size};
    return true;
}

// The number of the first line that is wrong, from 1; 0: all are right.
EXPORT int host_configure(const char *text) {
    std::istringstream lines(text);
    std::string line;
    for (int at = 1; std::getline(lines, line); at++)
        if (!configure_line(line)) return at;
    return 0;
}

EXPORT void host_fade() { fade_all(); }
EXPORT unsigned long long host_launches() { return state->launches; }
EXPORT unsigned long long host_allocations() { return state->large.size() + state->plain.size(); }
EXPORT unsigned long long host_base() { return (uint64_t)state->space; }

__attribute__((constructor)) static void loaded() {
    host_reset();
    const char *text = getenv("P104_HOSTCUDA");
    const int wrong = text ? host_configure(text) : 0;
    if (wrong) fprintf(stderr, "hostcuda: P104_HOSTCUDA: line %d is wrong\n", wrong);
}

__attribute__((destructor)) static void unloaded() { clear(); }

// --- calls -------------------------------------------------------------------------------------------------------

// What every call answers first: planted failures, then what broke the context earlier (it stays, as on a card).
static int trouble(const char *call, bool needs_context) {
    const uint64_t used = state->calls[call]++;
    const auto planted = state->failures.find(call);
    if (planted != state->failures.end() && used >= planted->second.after) {
        while (planted->second.code < 0) pause();
        return planted->second.code;
    }
    if (strcmp(call, "cuInit") && !state->initialised) return NOT_INITIALIZED;
    if (needs_context && !state->contexts) return INVALID_CONTEXT;
    return needs_context ? state->broken : SUCCESS;
}

#define BEGIN(needs_context)                                          \
    do {                                                              \
        const int trouble_ = trouble(__func__, needs_context);        \
        if (trouble_) return trouble_;                                \
    } while (0)

EXPORT int cuInit(unsigned flags) {
    BEGIN(false);
    if (flags) return INVALID_VALUE;
    if (!state->mapped) return NO_DEVICE;
    state->initialised = 1;
    return SUCCESS;
}

EXPORT int cuDriverGetVersion(int *version) {
    *version = 12090;
    return SUCCESS;
}

EXPORT int cuDeviceGetCount(int *count) {
    BEGIN(false);
    *count = 1;
    return SUCCESS;
}

EXPORT int cuDeviceGet(int *device, int ordinal) {
    BEGIN(false);
    if (ordinal) return INVALID_DEVICE;
    *device = 0;
    return SUCCESS;
}

EXPORT int cuDeviceGetName(char *name, int size, int) {
    BEGIN(false);
    snprintf(name, (size_t)size, "%s", state->name.c_str());
    return SUCCESS;
}

EXPORT int cuDeviceGetUuid_v2(uint8_t *uuid, int) {
    BEGIN(false);
    for (int i = 0; i < 16; i++) uuid[i] = (uint8_t)strtoul(state->uuid.substr(2 * i, 2).c_str(), nullptr, 16);
    return SUCCESS;
}

EXPORT int cuDeviceGetUuid(uint8_t *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int) {
    BEGIN(false);
    // A small card, for its blocks run one after another: 4 multiprocessors, sm_61, 256-bit bus at 5 GHz.
    static const std::map<int, int> known = {{1, 1024}, {10, 32}, {13, 1683000}, {16, 4}, {36, 5005000},
                                             {37, 256}, {38, 2097152}, {40, 2}, {75, 6}, {76, 1}};
    const auto found = known.find(attribute);
    *value = found == known.end() ? 0 : found->second;
    return SUCCESS;
}

EXPORT int cuDeviceTotalMem_v2(size_t *bytes, int) {
    BEGIN(false);
    *bytes = state->mapped;
    return SUCCESS;
}

EXPORT int cuCtxCreate_v2(void **context, unsigned, int) {
    BEGIN(false);
    state->contexts++;
    *context = state;
    return SUCCESS;
}

EXPORT int cuCtxDestroy_v2(void *context) {
    BEGIN(true);
    if (context != state) return INVALID_CONTEXT;
    state->contexts--;
    if (!state->contexts) {
        for (auto &p : state->plain) free((void *)p.first);
        state->plain.clear();
        state->large.clear();
    }
    return SUCCESS;
}

EXPORT int cuCtxSynchronize() {
    BEGIN(true);
    return SUCCESS;
}

EXPORT int cuMemGetInfo_v2(size_t *available, size_t *total) {
    BEGIN(true);
    uint64_t used = state->reserve;
    for (auto &p : state->large) used += p.second;
    *available = state->mapped - used;
    *total = state->mapped;
    return SUCCESS;
}

// First fit from below; the reserve lies at the top, as it must lie somewhere.
static uint64_t place_for(uint64_t bytes) {
    uint64_t at = (uint64_t)state->space;
    for (auto &p : state->large) {
        if (p.first - at >= bytes) break;
        at = p.first + p.second;
    }
    return at + bytes + state->reserve <= (uint64_t)state->space + state->mapped ? at : 0;
}

EXPORT int cuMemAlloc_v2(uint64_t *pointer, size_t bytes) {
    BEGIN(true);
    if (!bytes) return INVALID_VALUE;
    if (bytes < state->plain_below) {
        void *plain = aligned_alloc(512, (bytes + 511) / 512 * 512);
        if (!plain) return OUT_OF_MEMORY;
        memset(plain, 0xa5, bytes);  // fresh memory holds anything: who counts on zeros shall notice
        state->plain[(uint64_t)plain] = bytes;
        *pointer = (uint64_t)plain;
        return SUCCESS;
    }
    const uint64_t rounded = (bytes + state->granule - 1) / state->granule * state->granule;
    const uint64_t at = place_for(rounded);
    if (!at) return OUT_OF_MEMORY;
    state->large[at] = rounded;
    *pointer = at;
    return SUCCESS;
}

EXPORT int cuMemFree_v2(uint64_t pointer) {
    BEGIN(true);
    if (state->plain.erase(pointer)) free((void *)pointer);
    else if (!state->large.erase(pointer)) return INVALID_VALUE;
    return SUCCESS;
}

EXPORT int cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
    BEGIN(true);
    *pointer = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}

EXPORT int cuMemFreeHost(void *pointer) {
    BEGIN(true);
    free(pointer);
    return SUCCESS;
}

static bool lies_in(const std::map<uint64_t, uint64_t> &areas, uint64_t at, uint64_t bytes) {
    auto after = areas.upper_bound(at);
    if (after == areas.begin()) return false;
    --after;
    return at + bytes >= at && at + bytes <= after->first + after->second;
}

static bool allocated(uint64_t at, uint64_t bytes) {
    return lies_in(state->large, at, bytes) || lies_in(state->plain, at, bytes);
}

// A copy outside of what is allocated is refused; a kernel outside of it breaks the context.
static int copy(uint64_t to, uint64_t from, size_t bytes, bool to_card, bool from_card) {
    if ((to_card && !allocated(to, bytes)) || (from_card && !allocated(from, bytes))) return INVALID_VALUE;
    Touch touch;
    memmove((void *)to, (void *)from, bytes);
    return SUCCESS;
}

EXPORT int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
    BEGIN(true);
    return copy(to, (uint64_t)from, bytes, true, false);
}

EXPORT int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
    BEGIN(true);
    return copy((uint64_t)to, from, bytes, false, true);
}

EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *) {
    BEGIN(true);
    return copy(to, (uint64_t)from, bytes, true, false);
}

EXPORT int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *) {
    BEGIN(true);
    return copy((uint64_t)to, from, bytes, false, true);
}

EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *) {
    BEGIN(true);
    return copy(to, from, bytes, true, true);
}

EXPORT int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *) {
    BEGIN(true);
    if (!allocated(to, bytes)) return INVALID_VALUE;
    Touch touch;
    memset((void *)to, value, bytes);
    return SUCCESS;
}

// --- modules and launches ----------------------------------------------------------------------------------------

static const char *const ENTRIES[] = {"fill", "check", "swap"};
enum { JIT_ERROR_LOG_BUFFER = 5, JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6 };

static const char *wrong_image(const char *image) {
    for (const char *line : {".version 5.0\n", ".target sm_61\n", ".address_size 64\n"})
        if (!strstr(image, line)) return line;
    for (const char *entry : ENTRIES)
        if (!strstr(image, (std::string(".visible .entry ") + entry + "(").c_str())) return entry;
    return nullptr;
}

static void log_error(const char *missing, unsigned count, const int *options, void **values) {
    char *buffer = nullptr;
    size_t size = 0;
    for (unsigned i = 0; i < count; i++) {
        if (options[i] == JIT_ERROR_LOG_BUFFER) buffer = (char *)values[i];
        if (options[i] == JIT_ERROR_LOG_BUFFER_SIZE_BYTES) size = (size_t)values[i] & 0xffffffff;
    }
    if (buffer && size) snprintf(buffer, size, "ptxas fatal: the image lacks %s", missing);
}

EXPORT int cuModuleLoadDataEx(void **module, const char *image, unsigned count, const int *options, void **values) {
    BEGIN(true);
    if (const char *missing = wrong_image(image)) {
        log_error(missing, count, options, values);
        return INVALID_PTX;
    }
    *module = (void *)(uintptr_t)(0x1000 + ++state->modules);
    return SUCCESS;
}

EXPORT int cuModuleUnload(void *) {
    BEGIN(true);
    return SUCCESS;
}

EXPORT int cuModuleGetFunction(void **function, void *, const char *name) {
    BEGIN(true);
    for (uintptr_t i = 0; i < 3; i++)
        if (!strcmp(name, ENTRIES[i])) {
            *function = (void *)(i + 1);
            return SUCCESS;
        }
    return NOT_FOUND;
}

struct Arguments {
    void **values;
    u64 wide(int i) const { return *(u64 *)values[i]; }
    u32 narrow(int i) const { return *(u32 *)values[i]; }
    u64 *records(int i) const { return (u64 *)wide(i); }
};

static void run(uintptr_t function, const Arguments &g) {
    if (function == 1) fill(g.wide(0), g.wide(1), g.wide(2), g.narrow(3), g.wide(4), g.wide(5));
    if (function == 2)
        check(g.wide(0), g.wide(1), g.wide(2), g.narrow(3), g.wide(4), g.wide(5), g.records(6), g.narrow(7), g.wide(8));
    if (function == 3)
        swap(g.wide(0), g.wide(1), g.wide(2), g.narrow(3), g.wide(4), g.wide(5), g.narrow(6), g.wide(7), g.wide(8),
             g.records(9), g.narrow(10), g.wide(11), g.narrow(12));
}

// On a card, a piece or records outside of what is allocated are an illegal address, and odd ones a misaligned one.
static bool in_bounds(uintptr_t function, const Arguments &g) {
    const u64 base = g.wide(0), words = g.wide(1), first = g.wide(2);
    if (base % 16 || words % 2 || first % 2 || !allocated(base, words * 8)) return false;
    if (function == 1 || !words) return true;
    const int at = function == 2 ? 6 : 9;
    const u64 record = 8 * RECORD_WORDS, shift = g.narrow(at + 1);
    const u64 begin = g.wide(at) + (first >> shift) * record;
    const u64 end = g.wide(at) + (((first + words - 1) >> shift) + 1) * record;
    return g.wide(at) % 8 == 0 && shift >= 1 && shift <= 31 && allocated(begin, end - begin);
}

static void flip_due() {
    for (Flip &f : state->flips)
        if (f.launch == state->launches) state->physical[f.id].bytes[f.offset] ^= (uint8_t)(1 << f.bit);
}

EXPORT int cuLaunchKernel(void *function, unsigned grid, unsigned grid_y, unsigned grid_z, unsigned block,
                          unsigned block_y, unsigned block_z, unsigned, void *, void **parameters, void **extra) {
    BEGIN(true);
    const uintptr_t kernel = (uintptr_t)function;
    if (kernel < 1 || kernel > 3) return INVALID_HANDLE;
    if (!grid || !block || block > 256) return INVALID_VALUE;
    if (grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1) return INVALID_VALUE;
    if (!parameters || extra) return INVALID_VALUE;
    const Arguments arguments = {parameters};
    if (!in_bounds(kernel, arguments)) return state->broken = ILLEGAL_ADDRESS;
    {
        Touch touch;
        self.threads = state->threads ? (unsigned)state->threads : block;
        self.blocks = grid;
        for (self.block = 0; self.block < grid; self.block++)
            for (self.thread = 0; self.thread < self.threads; self.thread++) run(kernel, arguments);
        state->launches++;
        flip_due();
    }
    return SUCCESS;
}

// --- streams, events, errors -------------------------------------------------------------------------------------

EXPORT int cuStreamCreate(void **stream, unsigned) {
    BEGIN(true);
    *stream = (void *)state;
    return SUCCESS;
}

EXPORT int cuStreamDestroy_v2(void *) {
    BEGIN(true);
    return SUCCESS;
}

EXPORT int cuStreamSynchronize(void *) {
    BEGIN(true);
    return SUCCESS;
}

EXPORT int cuEventCreate(Event **event, unsigned) {
    BEGIN(true);
    *event = new Event{0};
    return SUCCESS;
}

EXPORT int cuEventDestroy_v2(Event *event) {
    BEGIN(true);
    delete event;
    return SUCCESS;
}

EXPORT int cuEventRecord(Event *event, void *) {
    BEGIN(true);
    event->at = now_milliseconds();
    return SUCCESS;
}

EXPORT int cuEventQuery(Event *) {
    BEGIN(true);
    return SUCCESS;
}

EXPORT int cuEventSynchronize(Event *) {
    BEGIN(true);
    return SUCCESS;
}

EXPORT int cuEventElapsedTime(float *milliseconds, const Event *begin, const Event *end) {
    BEGIN(true);
    if (!begin->at || !end->at) return INVALID_HANDLE;
    *milliseconds = (float)(end->at - begin->at);
    return SUCCESS;
}

static const std::map<int, std::pair<const char *, const char *>> ERRORS_KNOWN = {
    {0, {"CUDA_SUCCESS", "no error"}},
    {1, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {2, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {3, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
    {100, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
    {101, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {201, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {218, {"CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"}},
    {400, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
    {500, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {700, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {999, {"CUDA_ERROR_UNKNOWN", "unknown error"}},
};

static int error_text(int code, const char **text, bool name) {
    const auto found = ERRORS_KNOWN.find(code);
    *text = found == ERRORS_KNOWN.end() ? nullptr : name ? found->second.first : found->second.second;
    return *text ? SUCCESS : INVALID_VALUE;
}

EXPORT int cuGetErrorName(int code, const char **text) { return error_text(code, text, true); }
EXPORT int cuGetErrorString(int code, const char **text) { return error_text(code, text, false); }
