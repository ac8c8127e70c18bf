/* Stands between a process and libc, for tests: numbers the calls that change the world outside the process, kills the
 * process at the Nth, or lets the Nth fail. Loaded by LD_PRELOAD; see interposer.py for the side in Python.
 *
 * What it is to do is a line of text, in the environment variable P104_INTERPOSE at the start, or given at run time to
 * p104_interpose(), which begins to count at 1 again:
 *
 *   off                              nothing; every call costs one comparison more
 *   count                            number the calls ("points"): p104_interpose_points()
 *   kill:N                           SIGKILL to this process just before its Nth point
 *   after:N                          ... just after it, before the caller hears of it
 *   kill:N:PATHPART, after:N:PATHPART    of the points whose path contains PATHPART
 *   fail:ERRNO:CALLS:N[:PATHPART]    the Nth of CALLS fails with the number ERRNO and is not done
 *   eio:CALLS:N[:PATHPART]           ... with EIO
 *   enospc:CALLS:N[:PATHPART]        ... with ENOSPC
 *
 * CALLS is one name, several joined with '|', or `any`. N may be `N+`: the Nth and all after it. PATHPART is looked for
 * in what a descriptor is open on (as /proc tells it: "socket:[123]" of a socket, "... (deleted)" of what has no name),
 * or in the path as it was given; a rename or link matches by either of its two paths.
 *
 * Only the process that was armed counts: a child made by fork starts disarmed, and a program started by exec is armed
 * if LD_PRELOAD and P104_INTERPOSE are in its environment. All threads count together.
 *
 * P104_INTERPOSE_TRACE, or p104_interpose_trace(path): a line "N call path" for each point is appended to that file
 * before the call is made, so that it is there after a kill. "N" counts all points, also where a rule looks at some. A call
 * that is made to fail has a second line, "N failed path".
 *
 * Names: write (writev, pwrite, pwritev too have their own names) pwrite writev pwritev fsync fdatasync ftruncate
 * truncate fallocate rename unlink rmdir link symlink mkdir create (an open with O_CREAT) chmod chown send sendto
 * sendmsg sendfile copy_file_range fork spawn exec kill flock connect bind. The *at and *64 forms go by the same name.
 * vfork is made a fork, since no wrapper can return in a vforked child. mmap'ed stores (SQLite's -shm) are not seen. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define PUBLIC __attribute__((visibility("default")))

enum mode { OFF, COUNT, KILL, AFTER, FAIL };

static struct rule {
    enum mode mode;
    long nth;
    int on;         /* "N+" */
    int error;
    char calls[256]; /* "|fsync|fdatasync|", or "" for any */
    char part[512];
} rule;

/* Every wrapper looks at `armed` first, and at nothing else while it is 0. */
static atomic_int armed;
static atomic_long points, matches, failed;
static atomic_int tracing = -1;
static pthread_mutex_t arming = PTHREAD_MUTEX_INITIALIZER;

/* --- being told what to do ----------------------------------------------------------------------------------- */

static int take_number(const char *text, struct rule *into) {
    char *end;
    into->nth = strtol(text, &end, 10);
    into->on = *end == '+';
    return end == text || into->nth < 1 || (*end && strcmp(end, "+")) ? -1 : 0;
}

static int parse(const char *text, struct rule *into) {
    char copy[1024], *rest = copy, *word;
    memset(into, 0, sizeof *into);
    if (strlen(text) >= sizeof copy) return -1;
    strcpy(copy, text);
    word = strsep(&rest, ":");
    if (!strcmp(word, "off")) return rest ? -1 : 0;
    if (!strcmp(word, "count")) { into->mode = COUNT; return rest ? -1 : 0; }
    if (!strcmp(word, "kill") || !strcmp(word, "after")) {
        into->mode = *word == 'k' ? KILL : AFTER;
    } else {
        into->mode = FAIL;
        if (!strcmp(word, "eio")) into->error = EIO;
        else if (!strcmp(word, "enospc")) into->error = ENOSPC;
        else if (!strcmp(word, "fail") && (word = strsep(&rest, ":")) && (into->error = atoi(word)) > 0) ;
        else return -1;
        word = strsep(&rest, ":");
        if (!word || !*word || strlen(word) + 3 > sizeof into->calls) return -1;
        if (strcmp(word, "any")) snprintf(into->calls, sizeof into->calls, "|%s|", word);
    }
    word = strsep(&rest, ":");
    if (!word || take_number(word, into)) return -1;
    if (rest && strlen(rest) >= sizeof into->part) return -1;
    if (rest) strcpy(into->part, rest);
    return 0;
}

/* Returns 0, or -1 where the text is not one of those above: then all is as it was. */
PUBLIC int p104_interpose(const char *text) {
    struct rule parsed;
    if (parse(text, &parsed)) return -1;
    pthread_mutex_lock(&arming);
    atomic_store(&armed, 0);
    rule = parsed;
    atomic_store(&points, 0);
    atomic_store(&matches, 0);
    atomic_store(&failed, 0);
    /* The pid is the mark: in a forked child it is another, and nothing need be done there. */
    atomic_store(&armed, parsed.mode == OFF ? 0 : (int)syscall(SYS_getpid));
    pthread_mutex_unlock(&arming);
    return 0;
}

/* Points since it was armed. */
PUBLIC long p104_interpose_points(void) { return atomic_load(&points); }

/* Calls that were made to fail since it was armed. */
PUBLIC long p104_interpose_failed(void) { return atomic_load(&failed); }

/* Append to `path` from now on; "" ends it. Returns 0 or an errno. */
PUBLIC int p104_interpose_trace(const char *path) {
    int now = *path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (*path && now < 0) return errno;
    now = atomic_exchange(&tracing, now);
    if (now >= 0) syscall(SYS_close, now);
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *text = getenv("P104_INTERPOSE"), *trace = getenv("P104_INTERPOSE_TRACE");
    if (trace) p104_interpose_trace(trace);
    if (text && p104_interpose(text)) {
        fprintf(stderr, "P104_INTERPOSE=%s is not understood\n", text);
        _exit(99);
    }
}

/* --- a point ------------------------------------------------------------------------------------------------- */

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) syscall(SYS_pause);
}

static void note(long number, const char *call, const char *path) {
    char line[800];
    int file = atomic_load(&tracing);
    if (file < 0) return;
    int length = snprintf(line, sizeof line, "%ld %s %.700s\n", number, call, path);
    syscall(SYS_write, file, line, (size_t)length);
}

static int is_ours(const char *call, const char *path, const char *other) {
    char whole[64];
    snprintf(whole, sizeof whole, "|%s|", call);
    if (*rule.calls && !strstr(rule.calls, whole)) return 0;
    return !*rule.part || strstr(path, rule.part) || (other && strstr(other, rule.part));
}

/* What is to become of a call: 0 do it, 1 do it and die, -1 it has failed (errno is set). */
static int meet(const char *call, int fd, const char *path, const char *other) {
    char name[512] = "", link[64];
    int saved = errno;
    if ((int)syscall(SYS_getpid) != atomic_load(&armed)) return 0;
    if (!path) {
        path = name;
        if (fd >= 0 && (*rule.part || atomic_load(&tracing) >= 0)) {
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            long length = syscall(SYS_readlinkat, AT_FDCWD, link, name, sizeof name - 1);
            name[length > 0 ? length : 0] = 0;
        }
    }
    long point = atomic_fetch_add(&points, 1) + 1;
    note(point, call, path);
    errno = saved;
    if (rule.mode == COUNT || !is_ours(call, path, other)) return 0;
    long number = atomic_fetch_add(&matches, 1) + 1;
    if (number != rule.nth && !(rule.on && number > rule.nth)) return 0;
    if (rule.mode == KILL) die();
    if (rule.mode == AFTER) return 1;
    atomic_fetch_add(&failed, 1);
    note(point, "failed", path);
    errno = rule.error;
    return -1;
}

/* One wrapper. REAL is found at its first call; RETURN is what a failed call returns. */
#define WRAP(TYPE, NAME, PARAMETERS, ARGUMENTS, CALL, FD, PATH, OTHER, FAILED)                                         \
    PUBLIC TYPE NAME PARAMETERS {                                                                                      \
        static TYPE (*_Atomic real) PARAMETERS;                                                                        \
        TYPE(*function) PARAMETERS = atomic_load_explicit(&real, memory_order_relaxed);                                \
        if (!function) {                                                                                               \
            function = (TYPE(*) PARAMETERS)dlsym(RTLD_NEXT, #NAME);                                                    \
            atomic_store_explicit(&real, function, memory_order_relaxed);                                              \
        }                                                                                                              \
        int fate = atomic_load_explicit(&armed, memory_order_relaxed) ? meet(CALL, FD, PATH, OTHER) : 0;               \
        if (fate < 0) return FAILED;                                                                                   \
        TYPE result = function ARGUMENTS;                                                                              \
        if (fate) die();                                                                                               \
        return result;                                                                                                 \
    }

#define ON_FD(TYPE, NAME, PARAMETERS, ARGUMENTS, CALL) WRAP(TYPE, NAME, PARAMETERS, ARGUMENTS, CALL, fd, NULL, NULL, -1)
#define ON_PATH(NAME, PARAMETERS, ARGUMENTS, CALL) WRAP(int, NAME, PARAMETERS, ARGUMENTS, CALL, -1, path, NULL, -1)
#define ON_TWO(NAME, PARAMETERS, ARGUMENTS, CALL) WRAP(int, NAME, PARAMETERS, ARGUMENTS, CALL, -1, path, other, -1)

ON_FD(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), "write")
ON_FD(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), "writev")
ON_FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), "pwrite")
ON_FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), "pwrite")
ON_FD(ssize_t, pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at), "pwritev")
ON_FD(ssize_t, pwritev64, (int fd, const struct iovec *parts, int count, off64_t at), (fd, parts, count, at), "pwritev")
ON_FD(int, fsync, (int fd), (fd), "fsync")
ON_FD(int, fdatasync, (int fd), (fd), "fdatasync")
ON_FD(int, ftruncate, (int fd, off_t size), (fd, size), "ftruncate")
ON_FD(int, ftruncate64, (int fd, off64_t size), (fd, size), "ftruncate")
ON_FD(int, fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size), "fallocate")
ON_FD(int, fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size), "fallocate")
/* These two return the error instead of setting errno. */
WRAP(int, posix_fallocate, (int fd, off_t at, off_t size), (fd, at, size), "fallocate", fd, NULL, NULL, errno)
WRAP(int, posix_fallocate64, (int fd, off64_t at, off64_t size), (fd, at, size), "fallocate", fd, NULL, NULL, errno)
ON_FD(int, fchmod, (int fd, mode_t mode), (fd, mode), "chmod")
ON_FD(int, fchown, (int fd, uid_t uid, gid_t gid), (fd, uid, gid), "chown")
ON_FD(int, flock, (int fd, int how), (fd, how), "flock")
ON_FD(ssize_t, send, (int fd, const void *data, size_t size, int flags), (fd, data, size, flags), "send")
ON_FD(ssize_t, sendto,
      (int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length),
      (fd, data, size, flags, to, length), "sendto")
ON_FD(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), "sendmsg")
ON_FD(int, bind, (int fd, const struct sockaddr *to, socklen_t length), (fd, to, length), "bind")
ON_FD(int, connect, (int fd, const struct sockaddr *to, socklen_t length), (fd, to, length), "connect")
ON_FD(ssize_t, sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size), "sendfile")
ON_FD(ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size), "sendfile")
WRAP(ssize_t, copy_file_range, (int from, off64_t *in, int fd, off64_t *out, size_t size, unsigned flags),
     (from, in, fd, out, size, flags), "copy_file_range", fd, NULL, NULL, -1)

ON_PATH(truncate, (const char *path, off_t size), (path, size), "truncate")
ON_PATH(truncate64, (const char *path, off64_t size), (path, size), "truncate")
ON_PATH(unlink, (const char *path), (path), "unlink")
ON_PATH(unlinkat, (int dir, const char *path, int flags), (dir, path, flags), "unlink")
ON_PATH(rmdir, (const char *path), (path), "rmdir")
ON_PATH(mkdir, (const char *path, mode_t mode), (path, mode), "mkdir")
ON_PATH(mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), "mkdir")
ON_PATH(chmod, (const char *path, mode_t mode), (path, mode), "chmod")
ON_PATH(fchmodat, (int dir, const char *path, mode_t mode, int flags), (dir, path, mode, flags), "chmod")
ON_PATH(chown, (const char *path, uid_t uid, gid_t gid), (path, uid, gid), "chown")
ON_PATH(lchown, (const char *path, uid_t uid, gid_t gid), (path, uid, gid), "chown")
ON_TWO(rename, (const char *path, const char *other), (path, other), "rename")
ON_TWO(renameat, (int dir, const char *path, int to, const char *other), (dir, path, to, other), "rename")
ON_TWO(link, (const char *path, const char *other), (path, other), "link")
ON_TWO(linkat, (int dir, const char *path, int to, const char *other, int flags), (dir, path, to, other, flags), "link")
ON_TWO(symlink, (const char *path, const char *other), (path, other), "symlink")
ON_TWO(symlinkat, (const char *path, int dir, const char *other), (path, dir, other), "symlink")

WRAP(pid_t, fork, (void), (), "fork", -1, "", NULL, -1)
PUBLIC pid_t vfork(void) { return fork(); }
WRAP(int, posix_spawn,
     (pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
      char *const argv[], char *const envp[]),
     (pid, path, actions, attributes, argv, envp), "spawn", -1, path, NULL, errno)
WRAP(int, posix_spawnp,
     (pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
      char *const argv[], char *const envp[]),
     (pid, path, actions, attributes, argv, envp), "spawn", -1, path, NULL, errno)
ON_PATH(execve, (const char *path, char *const argv[], char *const envp[]), (path, argv, envp), "exec")
ON_PATH(execv, (const char *path, char *const argv[]), (path, argv), "exec")
WRAP(int, kill, (pid_t pid, int number), (pid, number), "kill", -1, "", NULL, -1)
WRAP(int, killpg, (pid_t pid, int number), (pid, number), "kill", -1, "", NULL, -1)

/* An open that makes a file is a point; the others are not. */
#define OPEN(NAME, FIRST, FORWARD)                                                                                     \
    PUBLIC int NAME(FIRST const char *path, int flags, ...) {                                                          \
        static int (*_Atomic real)(FIRST const char *, int, ...);                                                      \
        mode_t mode = 0;                                                                                               \
        if (flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {                                                          \
            va_list more;                                                                                              \
            va_start(more, flags);                                                                                     \
            mode = va_arg(more, mode_t);                                                                               \
            va_end(more);                                                                                              \
        }                                                                                                              \
        if (!real) real = (int (*)(FIRST const char *, int, ...))dlsym(RTLD_NEXT, #NAME);                              \
        int fate = flags & O_CREAT && atomic_load_explicit(&armed, memory_order_relaxed)                               \
                       ? meet("create", -1, path, NULL)                                                                \
                       : 0;                                                                                            \
        if (fate < 0) return -1;                                                                                       \
        int result = real(FORWARD path, flags, mode);                                                                  \
        if (fate) die();                                                                                               \
        return result;                                                                                                 \
    }
#define NOTHING
#define DIR_TYPE int dir,
#define DIR_NAME dir,
OPEN(open, NOTHING, NOTHING)
OPEN(open64, NOTHING, NOTHING)
OPEN(openat, DIR_TYPE, DIR_NAME)
OPEN(openat64, DIR_TYPE, DIR_NAME)

/* Python reaches clone3 and pidfd_send_signal through this. */
PUBLIC long syscall(long number, ...) {
    static long (*_Atomic real)(long, ...);
    long a[6];
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(more, long);
    va_end(more);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    const char *call = number == SYS_clone3 || number == SYS_clone ? "fork"
                       : number == SYS_pidfd_send_signal           ? "kill"
                                                                   : NULL;
    int fate = call && atomic_load_explicit(&armed, memory_order_relaxed) ? meet(call, -1, "", NULL) : 0;
    if (fate < 0) return -1;
    long result = real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (fate) die();
    return result;
}
