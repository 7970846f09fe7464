/* What only PID 1 does: modules, the port, the mounts, the network, and leaving it all as it was. */
#define _GNU_SOURCE
#include "agent.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SETUP_READ_ONLY = 1, SETUP_NET = 2, PORT_TRIES = 15000, MADE_MAX = 64 };

static int old_root = -1; /* the initramfs */

static bool fail(char line[static MESSAGE_MAX], const char *format, ...) {
    int error = errno;
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(line, MESSAGE_MAX - 200, format, arguments);
    va_end(arguments);
    if (size > MESSAGE_MAX - 201) size = MESSAGE_MAX - 201;
    snprintf(line + size, 200, ": %s", strerror(error));
    return false;
}

/* --- modules and the port --------------------------------------------------------------------------------------- */

static void load_modules(void) {
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char path[300];
        if (names[i]->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
            fprintf(stderr, "monofs agent: %s: %m\n", path);
        if (fd >= 0) close(fd);
        unlink(path); /* it is in memory twice otherwise */
    }
}

static int try_port(void) {
    DIR *dev = opendir("/dev");
    int fd = -1;
    for (struct dirent *entry; dev && fd < 0 && (entry = readdir(dev));)
        if (!strncmp(entry->d_name, "vport", 5)) fd = openat(dirfd(dev), entry->d_name, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (dev) closedir(dev);
    return fd;
}

/* The port is there before the host's end is known to be; until then it looks as if the host had hung up. */
static bool is_connected(int fd) {
    struct pollfd state = {.fd = fd, .events = POLLOUT};
    return poll(&state, 1, 0) >= 0 && !(state.revents & (POLLHUP | POLLERR));
}

int open_port(void) {
    mkdir("/dev", 0755);
    load_modules();
    if (mount("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=0755")) die("no devtmpfs: %m");
    int fd = -1;
    for (int i = 0; i < PORT_TRIES; i++) { /* the device tells of its ports a moment after it is there */
        if (fd < 0) fd = try_port();
        if (fd >= 0 && is_connected(fd)) return fd;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    die("no virtio-serial port: is virtio_console a module that is not in the initramfs?");
}

/* --- mount points that the tree lacks --------------------------------------------------------------------------- */

/* Made here and removed at the end, so that a tree is not changed by having been booted. */
static struct made {
    char *path;
    bool is_file;
    struct stat before, after; /* of its parent */
} made[MADE_MAX];
static int made_count;

static char *parent_of(const char *path, char *parent) {
    strcpy(parent, path);
    char *slash = strrchr(parent, '/');
    slash[slash == parent] = 0;
    return parent;
}

static bool make_one(const char *path, bool is_file) {
    char parent[4097];
    struct made new = {.is_file = is_file};
    if (made_count == MADE_MAX || strlen(path) > 4095) {
        errno = ENAMETOOLONG;
        return false;
    }
    parent_of(path, parent);
    if (stat(parent, &new.before)) return false;
    if (is_file) {
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
        if (fd < 0) return false;
        close(fd);
    } else if (mkdir(path, 0755)) {
        return false;
    }
    if (stat(parent, &new.after) || !(new.path = strdup(path))) return false;
    made[made_count++] = new;
    return true;
}

static bool make_directories(const char *path) {
    char part[4097];
    if (strlen(path) > 4095) return false;
    for (const char *at = path; *at;) {
        at += strspn(at, "/");
        at += strcspn(at, "/");
        snprintf(part, sizeof part, "%.*s", (int)(at - path), path);
        struct stat found;
        if (stat(part, &found) && !make_one(part, false)) return false;
    }
    return true;
}

static bool is_same_time(struct timespec a, struct timespec b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

/* A directory that somebody has used stays. */
static void unmake(struct made *one) {
    char parent[4097];
    struct stat now, found;
    if (stat(parent_of(one->path, parent), &now)) return;
    if (one->is_file) {
        if (stat(one->path, &found) || found.st_size || unlink(one->path)) return;
    } else if (rmdir(one->path)) {
        return;
    }
    bool is_untouched = is_same_time(now.st_mtim, one->after.st_mtim);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, is_untouched ? one->before.st_mtim : now.st_mtim};
    utimensat(AT_FDCWD, parent, times, 0);
}

/* --- mounts ----------------------------------------------------------------------------------------------------- */

static bool become_root(unsigned long flags, char line[static MESSAGE_MAX]) {
    mkdir("/root", 0755);
    if (mount("root", "/root", "virtiofs", flags, NULL)) return fail(line, "the root cannot be mounted");
    old_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (old_root < 0 || chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
        return fail(line, "the root cannot be made /");
    return true;
}

static void mount_own(const char *type, const char *path, unsigned long flags, const char *options) {
    if (!make_directories(path) || mount(type, path, type, flags, options))
        fprintf(stderr, "monofs agent: %s is not mounted: %m\n", path);
}

static void mount_system(void) {
    mount_own("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_own("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount_own("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
    struct stat dev, root;
    if (stat("/dev", &dev) || stat("/", &root) || dev.st_dev == root.st_dev) return; /* what follows belongs on it */
    mkdir("/dev/pts", 0755);
    mkdir("/dev/shm", 01777);
    mount_own("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5");
    mount_own("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
    chmod("/dev/ptmx", 0666);
    if (symlink("/proc/self/fd", "/dev/fd") || symlink("/proc/self/fd/0", "/dev/stdin") ||
        symlink("/proc/self/fd/1", "/dev/stdout") || symlink("/proc/self/fd/2", "/dev/stderr")) {}
}

/* Returns the string at *at and moves on; NULL if there is none left. */
static const char *next(const char **at, const char *end) {
    const char *string = *at, *nul = string < end ? memchr(string, 0, end - string) : NULL;
    if (!nul) return NULL;
    *at = nul + 1;
    return string;
}

static bool mount_volumes(uint32_t count, const char *at, const char *end, char line[static MESSAGE_MAX]) {
    while (count--) {
        const char *tag = next(&at, end), *path = next(&at, end), *mode = next(&at, end);
        if (!mode || *path != '/') die("the host sent a bad SETUP");
        if (!make_directories(path)) return fail(line, "the volume's place %s cannot be made", path);
        if (mount(tag, path, "virtiofs", strcmp(mode, "ro") ? 0 : MS_RDONLY, NULL))
            return fail(line, "the volume %s cannot be mounted", path);
    }
    if (at != end) die("the host sent a bad SETUP");
    return true;
}

/* --- network ---------------------------------------------------------------------------------------------------- */

static struct sockaddr address(const char *text) {
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr plain;
    inet_pton(AF_INET, text, &in.sin_addr);
    memcpy(&plain, &in, sizeof plain);
    return plain;
}

static bool bring_up(int fd, const char *name, const char *ip, const char *mask) {
    struct ifreq request = {0};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (ip) {
        request.ifr_addr = address(ip);
        if (ioctl(fd, SIOCSIFADDR, &request)) return false;
        request.ifr_netmask = address(mask);
        if (ioctl(fd, SIOCSIFNETMASK, &request)) return false;
    }
    if (ioctl(fd, SIOCGIFFLAGS, &request)) return false;
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    return !ioctl(fd, SIOCSIFFLAGS, &request);
}

/* The numbers are those of QEMU's user network. */
static bool set_up_net(int fd) {
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    route.rt_dst = address("0.0.0.0");
    route.rt_genmask = address("0.0.0.0");
    route.rt_gateway = address("10.0.2.2");
    return bring_up(fd, "eth0", "10.0.2.15", "255.255.255.0") && !ioctl(fd, SIOCADDRT, &route);
}

/* The tree's own resolv.conf stays as it is: another file covers it. */
static void cover_resolv_conf(void) {
    static const char text[] = "nameserver 10.0.2.3\n";
    static const char path[] = "/etc/resolv.conf", cover[] = "/dev/.monofs-resolv.conf";
    struct stat found;
    int fd = open(cover, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) return;
    if (write(fd, text, sizeof text - 1) < 0) {}
    close(fd);
    if (stat(path, &found) && !make_one(path, true)) return;
    if (mount(cover, path, NULL, MS_BIND, NULL)) fprintf(stderr, "monofs agent: %s is not covered: %m\n", path);
}

/* --- all of it -------------------------------------------------------------------------------------------------- */

bool set_up_guest(uint32_t flags, uint64_t now_ns, uint32_t volumes, const char *strings, const char *end,
                  char line[static MESSAGE_MAX]) {
    struct timespec now = {.tv_sec = now_ns / 1000000000, .tv_nsec = now_ns % 1000000000};
    clock_settime(CLOCK_REALTIME, &now);
    const char *hostname = next(&strings, end);
    if (!hostname) die("the host sent a bad SETUP");
    sethostname(hostname, strlen(hostname));
    if (!become_root(flags & SETUP_READ_ONLY ? MS_RDONLY : 0, line)) return false;
    umask(0);
    mount_system();
    umask(022);
    if (!mount_volumes(volumes, strings, end, line)) return false;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) bring_up(fd, "lo", "127.0.0.1", "255.0.0.0");
    if (flags & SETUP_NET) {
        if (fd < 0 || !set_up_net(fd)) return fail(line, "the network cannot be set up");
        cover_resolv_conf();
    }
    if (fd >= 0) close(fd);
    return true;
}

/* Unmount what is mounted below the root, the latest first. */
static void unmount_below(void) {
    for (int round = 0; round < 64; round++) {
        FILE *mounts = fopen("/proc/self/mounts", "re");
        char *text = NULL, last[4097] = "";
        size_t room = 0;
        while (mounts && getline(&text, &room, mounts) > 0) {
            char *path = strchr(text, ' ');
            if (!path) continue;
            path[1 + strcspn(path + 1, " ")] = 0;
            if (strcmp(path + 1, "/") && strlen(path + 1) < sizeof last) strcpy(last, path + 1);
        }
        free(text);
        if (mounts) fclose(mounts);
        if (!*last) break;
        for (char *from = last, *to = last; (*to = *from); from++, to++) /* \040 and its like are escapes */
            if (*from == '\\' && strlen(from) > 3) *to = (from[1] - '0') * 64 + (from[2] - '0') * 8 + from[3] - '0', from += 3;
        if (umount2(last, UMOUNT_NOFOLLOW) && umount2(last, MNT_DETACH | UMOUNT_NOFOLLOW)) break;
    }
    if (umount2("/proc", MNT_DETACH)) {}
}

bool leave_root(char line[static MESSAGE_MAX]) {
    if (old_root < 0) return true;
    sync();
    unmount_below();
    while (made_count) unmake(&made[--made_count]);
    sync();
    /* Says if anything is still open for writing, and writes back what mappings hold. */
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL)) return fail(line, "the root is still in use");
    if (umount2("/", MNT_DETACH) || fchdir(old_root) || chroot(".")) return fail(line, "the root cannot be unmounted");
    old_root = -1;
    return true;
}
