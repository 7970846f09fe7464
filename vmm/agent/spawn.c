/* Starting one command: its pipes or its terminal, its user, its directory. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

void set_window(int terminal, uint16_t rows, uint16_t columns) {
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    if (terminal >= 0) ioctl(terminal, TIOCSWINSZ, &size);
}

/* --- in the child ----------------------------------------------------------------------------------------------- */

static int news = -1;

static void refuse(uint32_t exit_code, const char *format, ...) {
    struct refusal refusal = {.exit_code = exit_code};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(refusal.line, sizeof refusal.line, format, arguments);
    va_end(arguments);
    if (write(news, &refusal, sizeof refusal) < 0) {}
    _exit(exit_code);
}

/* What shells say: 127 there is no such thing, 126 there is but it does not run. */
static uint32_t code_of(int error) { return error == ENOENT || error == ENOTDIR ? 127 : 126; }

static const char *value_of(char *const *envp, const char *name) {
    size_t size = strlen(name);
    for (; *envp; envp++)
        if (!strncmp(*envp, name, size) && (*envp)[size] == '=') return *envp + size + 1;
    return NULL;
}

/* The environment asked for, and the few that every program expects. */
static char **complete(char **envp, size_t count, bool is_terminal, const char *home) {
    static char home_text[1100];
    char **all = calloc(count + 4, sizeof *all);
    if (!all) refuse(126, "out of memory");
    memcpy(all, envp, count * sizeof *all);
    if (!value_of(envp, "PATH")) all[count++] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if (!value_of(envp, "HOME")) {
        snprintf(home_text, sizeof home_text, "HOME=%s", home);
        all[count++] = home_text;
    }
    if (is_terminal && !value_of(envp, "TERM")) all[count++] = "TERM=xterm";
    return all;
}

static void become(const struct user *user) {
    if (setgroups(user->group_count, user->groups) || setresgid(user->gid, user->gid, user->gid) ||
        setresuid(user->uid, user->uid, user->uid))
        refuse(126, "cannot become user %u: %s", user->uid, strerror(errno));
}

static void execute(char *const *argv, char *const *envp) {
    const char *name = argv[0], *path = value_of(envp, "PATH");
    int worst = ENOENT;
    if (strchr(name, '/')) {
        execve(name, argv, envp);
        worst = errno;
    } else {
        for (;;) {
            static char full[4096 + 256];
            size_t size = strcspn(path, ":");
            if (size + strlen(name) + 2 <= sizeof full) {
                snprintf(full, sizeof full, "%.*s%s%s", (int)size, path, size ? "/" : "", name);
                execve(full, argv, envp);
                if (errno != ENOENT && errno != ENOTDIR) worst = errno;
            }
            if (!path[size]) break;
            path += size + 1;
        }
    }
    if (worst == ENOENT && !strchr(name, '/')) refuse(127, "%.600s: there is no such command", name);
    refuse(code_of(worst), "%.600s: %s", name, strerror(worst));
}

static void reset_signals(void) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int number = 1; number < 32; number++) signal(number, SIG_DFL); /* ours, and what a test was started with */
}

static void run(const struct start *start, const int stdio[3]) {
    struct user user = {.home = "/"};
    char line[512];
    setsid();
    for (int i = 0; i < 3; i++)
        if (dup2(stdio[i], i) < 0) refuse(126, "dup2: %s", strerror(errno));
    if (start->is_terminal && ioctl(0, TIOCSCTTY, 0)) refuse(126, "no terminal: %s", strerror(errno));
    if (!find_user(start->user, &user, line)) refuse(126, "%s", line);
    if (*start->user) {
        /* So that /dev/stdout and the terminal can be opened again by their user. */
        for (int i = 0; i < 3; i++)
            if (fchown(i, user.uid, start->is_terminal ? (gid_t)-1 : user.gid)) {}
        become(&user);
    }
    if (chdir(start->directory)) refuse(126, "%.600s: %s", start->directory, strerror(errno));
    reset_signals();
    execute(start->argv, complete(start->envp, start->envc, start->is_terminal, user.home));
}

/* --- in the agent ----------------------------------------------------------------------------------------------- */

static bool open_terminal(struct command *command, const struct start *start, int theirs[3]) {
    int unlock = 0;
    int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0) master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0) return false;
    command->stream[0] = master;
    command->in = fcntl(master, F_DUPFD_CLOEXEC, 3);
    if (command->in < 0 || ioctl(master, TIOCSPTLCK, &unlock)) return false;
    set_window(master, start->rows, start->columns);
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0) return false;
    theirs[0] = slave;
    theirs[1] = fcntl(slave, F_DUPFD_CLOEXEC, 3);
    theirs[2] = fcntl(slave, F_DUPFD_CLOEXEC, 3);
    return theirs[1] >= 0 && theirs[2] >= 0;
}

static bool open_pipes(struct command *command, int theirs[3]) {
    int *ours[3] = {&command->in, &command->stream[0], &command->stream[1]};
    for (int i = 0; i < 3; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC)) return false;
        *ours[i] = ends[i == 0];
        theirs[i] = ends[i != 0];
        if (fcntl(*ours[i], F_SETFL, O_NONBLOCK)) return false;
        fcntl(*ours[i], F_SETPIPE_SZ, FRAME_MAX); /* fewer turns for much output; it works without */
    }
    return true;
}

const char *spawn(struct command *command, const struct start *start) {
    int theirs[3] = {-1, -1, -1}, told[2] = {-1, -1};
    const char *problem = NULL;
    bool is_open = start->is_terminal ? open_terminal(command, start, theirs) : open_pipes(command, theirs);
    if (!is_open) problem = start->is_terminal ? "no terminal (is there no /dev/pts?)" : "no pipes";
    else if (pipe2(told, O_CLOEXEC | O_NONBLOCK)) problem = "no pipe";
    else if ((command->pid = fork()) < 0) problem = "cannot fork";
    if (!problem && command->pid == 0) {
        news = told[1];
        run(start, theirs);
    }
    int error = errno;
    for (int i = 0; i < 3; i++)
        if (theirs[i] >= 0) close(theirs[i]);
    if (told[1] >= 0) close(told[1]);
    command->news = told[0];
    command->stream_ended[1] = false;
    errno = error;
    return problem;
}
