/* Another world for a process and what it starts: its host's clock is set, its host has booted again, its disk does not
 * read. Loaded by LD_PRELOAD; fault_rig.py has the side in Python.
 *
 * P104_WORLD names a file of eight 64-bit numbers, mapped by everybody and changed at any time by the test:
 *
 *   [0]  seconds to be added to what CLOCK_REALTIME says
 *   [1]  how many reads of the queue's files are to fail with EIO from now on (counted down)   [2]  how many have
 *   [3]  which sync of the queue's files is to fail: 1 is the next (counted down; 0: none)     [4]  how many have
 *   [5]  the same of the files of attempts                                                     [6]  how many have
 *   [7]  how many syncs of the queue's files fail after the one of [3] (counted down)
 *
 * P104_WORLD_BOOT, when set, is a file that is read in the place of the kernel's boot id. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

static volatile int64_t nothing[8];
static volatile int64_t *world = nothing;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static ssize_t (*real_pread64)(int, void *, size_t, off64_t);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("P104_WORLD");
    real_clock_gettime = REAL(clock_gettime);
    real_pread64 = REAL(pread64);
    if (path == NULL) return;
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) return;
    void *mapped = mmap(NULL, sizeof nothing, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (mapped != MAP_FAILED) world = mapped;
    close(descriptor);
}

/* --- the clock ------------------------------------------------------------------------------------------------- */

PUBLIC int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (real_clock_gettime ? real_clock_gettime : REAL(clock_gettime))(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += world[0];
    return result;
}

PUBLIC time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}

PUBLIC int gettimeofday(struct timeval *restrict into, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    into->tv_sec = now.tv_sec;
    into->tv_usec = now.tv_nsec / 1000;
    return 0;
}

/* --- the boot -------------------------------------------------------------------------------------------------- */

static const char *instead(const char *path) {
    const char *other = getenv("P104_WORLD_BOOT");
    return other != NULL && path != NULL && strcmp(path, BOOT_ID) == 0 ? other : path;
}

#define OPENING(name, ...)                                                                                            \
    mode_t mode = 0;                                                                                                  \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                            \
        va_list rest;                                                                                                 \
        va_start(rest, flags);                                                                                        \
        mode = va_arg(rest, mode_t);                                                                                  \
        va_end(rest);                                                                                                 \
    }                                                                                                                 \
    return REAL(name)(__VA_ARGS__, flags, mode);

PUBLIC int open(const char *path, int flags, ...) { OPENING(open, instead(path)) }
PUBLIC int open64(const char *path, int flags, ...) { OPENING(open64, instead(path)) }
PUBLIC int openat(int folder, const char *path, int flags, ...) { OPENING(openat, folder, instead(path)) }
PUBLIC int openat64(int folder, const char *path, int flags, ...) { OPENING(openat64, folder, instead(path)) }

/* --- the disk -------------------------------------------------------------------------------------------------- */

static int is_of(const char *part, int descriptor) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

static int fails(int slot) {
    __atomic_add_fetch(&world[slot], 1, __ATOMIC_SEQ_CST);
    errno = EIO;
    return 1;
}

static int refuses(int descriptor) {
    if (world[1] <= 0 || !is_of("/queue.db", descriptor)) return 0;
    __atomic_sub_fetch(&world[1], 1, __ATOMIC_SEQ_CST);
    return fails(2);
}

static int is_the_one(int slot, const char *part, int descriptor) {
    if (world[slot] <= 0 || !is_of(part, descriptor)) return 0;
    return __atomic_sub_fetch(&world[slot], 1, __ATOMIC_SEQ_CST) == 0 && fails(slot + 1);
}

static int is_one_more(int descriptor) {
    if (world[7] <= 0 || world[3] > 0 || !is_of("/queue.db", descriptor)) return 0;
    __atomic_sub_fetch(&world[7], 1, __ATOMIC_SEQ_CST);
    return fails(4);
}

static int does_not_sync(int descriptor) {
    return is_one_more(descriptor) || is_the_one(3, "/queue.db", descriptor) || is_the_one(5, "/jobs/", descriptor);
}

PUBLIC int fsync(int descriptor) { return does_not_sync(descriptor) ? -1 : REAL(fsync)(descriptor); }
PUBLIC int fdatasync(int descriptor) { return does_not_sync(descriptor) ? -1 : REAL(fdatasync)(descriptor); }

PUBLIC ssize_t pread64(int descriptor, void *into, size_t size, off64_t at) {
    return refuses(descriptor) ? -1 : real_pread64(descriptor, into, size, at);
}

PUBLIC ssize_t pread(int descriptor, void *into, size_t size, off_t at) {
    return refuses(descriptor) ? -1 : real_pread64(descriptor, into, size, at);
}

PUBLIC ssize_t read(int descriptor, void *into, size_t size) {
    return refuses(descriptor) ? -1 : REAL(read)(descriptor, into, size);
}
