/* The guest agent: PID 1 of a machine. It mounts the root, runs the host's commands there and powers off. See PROTOCOL.md.
 *
 * Run by hand as `agent FD` it only speaks the protocol on that descriptor and runs commands where it is: for tests.
 * One thread, one poll loop. It waits for nobody but the host. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int port = -1;
static int children = -1; /* a signalfd for SIGCHLD */
static bool in_guest;     /* as PID 1; otherwise a test */
static bool is_set_up;
static bool is_leaving; /* POWER_OFF came */
static bool is_down;    /* and DOWN was sent */
static uint64_t leave_by_ns;

static struct command commands[COMMANDS_MAX];

static uint8_t input[HEADER + FRAME_MAX];
static size_t input_size;
static uint8_t output[HEADER + FRAME_MAX];

/* --- saying ----------------------------------------------------------------------------------------------------- */

static void __attribute__((noreturn)) halt_now(void) {
    if (!in_guest) _exit(0);
    reboot(RB_POWER_OFF);
    for (;;) pause(); /* PID 1 may not return */
}

void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "monofs agent: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    if (!in_guest) _exit(3);
    static char line[MESSAGE_MAX];
    end_everything();
    leave_root(line);
    halt_now();
}

static void put32(uint8_t *at, uint32_t number) { memcpy(at, &number, 4); }
static uint32_t get32(const uint8_t *at) { uint32_t number; memcpy(&number, at, 4); return number; }
static uint16_t get16(const uint8_t *at) { uint16_t number; memcpy(&number, at, 2); return number; }

/* Send the frame whose payload is in `output` already. The host always reads, so this may wait. */
static void send_frame(uint32_t id, uint32_t kind, size_t size) {
    put32(output, size);
    put32(output + 4, id);
    put32(output + 8, kind);
    const uint8_t *at = output;
    for (size_t left = HEADER + size; left;) {
        ssize_t sent = write(port, at, left);
        if (sent < 0 && (errno == EINTR || errno == EAGAIN)) {
            struct pollfd wait = {.fd = port, .events = POLLOUT};
            poll(&wait, 1, -1);
            if (wait.revents & (POLLHUP | POLLERR)) { port = -1; die("the host is gone"); }
            continue;
        }
        if (sent <= 0) { port = -1; die("the host is gone: %m"); }
        at += sent;
        left -= sent;
    }
}

static void send_number(uint32_t id, uint32_t kind, uint32_t number) {
    put32(output + HEADER, number);
    send_frame(id, kind, 4);
}

static void send_line(uint32_t id, uint32_t kind, uint32_t number, const char *line) {
    size_t size = strnlen(line, MESSAGE_MAX - 8);
    put32(output + HEADER, number);
    memcpy(output + HEADER + 4, line, size);
    send_frame(id, kind, 4 + size);
}

static uint64_t uptime_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

/* --- a command's streams ---------------------------------------------------------------------------------------- */

static void shut(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static struct command *find(uint32_t id) {
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (commands[i].id == id && id && !commands[i].is_over) return &commands[i];
    return NULL;
}

static void forget(struct command *command) {
    shut(&command->in);
    shut(&command->stream[0]);
    shut(&command->stream[1]);
    shut(&command->news);
    free(command->pending);
    *command = (struct command){.in = -1, .stream = {-1, -1}, .news = -1};
}

static void end_stdin(struct command *command) {
    command->pending_size = command->pending_from = 0;
    const char end = 4; /* Ctrl-D; closing this end says nothing, the output is another descriptor of the same terminal */
    if (command->is_terminal && write(command->in, &end, 1) < 0) command->stdin_ends = true;
    shut(&command->in);
}

/* Write what the host sent to the command, as far as it takes it. */
static void feed(struct command *command) {
    size_t taken = 0;
    while (command->in >= 0 && command->pending_from < command->pending_size) {
        ssize_t wrote = write(command->in, command->pending + command->pending_from,
                              command->pending_size - command->pending_from);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0 && errno == EAGAIN) break;
        if (wrote < 0) {
            taken += command->pending_size - command->pending_from;
            command->pending_from = command->pending_size;
            shut(&command->in);
            send_frame(command->id, STDIN_CLOSED, 0);
            break;
        }
        command->pending_from += wrote;
        taken += wrote;
    }
    if (command->pending_from == command->pending_size) {
        command->pending_from = command->pending_size = 0;
        if (command->stdin_ends && command->in >= 0) end_stdin(command);
    }
    if (taken) {
        command->stdin_held -= taken;
        send_number(command->id, TAKEN, taken);
    }
}

static void take_stdin(struct command *command, const uint8_t *data, size_t size) {
    if (size > STDIN_WINDOW - command->stdin_held || command->stdin_ends) die("the host sent too much input");
    if (!size) command->stdin_ends = true;
    command->stdin_held += size;
    if (command->in < 0) { /* it does not read any more, and the host has been told or will see */
        command->stdin_held -= size;
        if (size) send_number(command->id, TAKEN, size);
        return;
    }
    if (command->pending_from) {
        memmove(command->pending, command->pending + command->pending_from, command->pending_size - command->pending_from);
        command->pending_size -= command->pending_from;
        command->pending_from = 0;
    }
    if (size) memcpy(command->pending + command->pending_size, data, size);
    command->pending_size += size;
    feed(command);
}

static void end_stream(struct command *command, int which) {
    if (command->stream_ended[which]) return;
    command->stream_ended[which] = true;
    send_frame(command->id, which ? STDERR : STDOUT, 0);
    /* Left open if a background child may write there: it is read and dropped, see drop(). */
    if (command->is_terminal) shut(&command->stream[which]);
}

/* Send on what the command wrote, as far as the window allows. */
static void drain(struct command *command, int which) {
    while (!command->stream_ended[which] && command->credit[which]) {
        size_t size = command->credit[which] < FRAME_MAX ? command->credit[which] : FRAME_MAX;
        if (command->has_exited && !command->is_terminal && command->left[which] < size) size = command->left[which];
        if (!size) {
            end_stream(command, which);
            return;
        }
        ssize_t got = read(command->stream[which], output + HEADER, size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) {
            if (command->has_exited) end_stream(command, which);
            return;
        }
        if (got <= 0) { /* EIO: nobody has the terminal open */
            shut(&command->stream[which]);
            end_stream(command, which);
            return;
        }
        command->credit[which] -= got;
        command->left[which] -= command->has_exited ? got : 0;
        send_frame(command->id, which ? STDERR : STDOUT, got);
        if (!command->has_exited && (size_t)got < size / 2) return; /* let others have a turn */
    }
}

/* Read and drop what background children of a finished command write. */
static void drop(struct command *command, int which) {
    static uint8_t waste[65536];
    ssize_t got = read(command->stream[which], waste, sizeof waste);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) shut(&command->stream[which]);
}

static void finish_if_over(struct command *command) {
    if (command->is_over || !command->has_exited || !command->stream_ended[0] || !command->stream_ended[1]) return;
    send_number(command->id, EXIT, command->exit_code);
    command->is_over = true;
    if (command->in >= 0) shut(&command->in);
    shut(&command->news);
    free(command->pending);
    command->pending = NULL;
    if (command->stream[0] < 0 && command->stream[1] < 0) forget(command);
}

/* What its pipes hold now is the command's output; what background children write from here on is not. */
static void note_exit(struct command *command, int status) {
    command->has_exited = true;
    command->exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    for (int which = 0; which < 2; which++) {
        int left = 0;
        if (command->stream[which] >= 0) ioctl(command->stream[which], FIONREAD, &left);
        command->left[which] = left;
    }
}

/* Returns whether any child is left. */
static bool reap(void) {
    struct signalfd_siginfo ignored[8];
    while (read(children, ignored, sizeof ignored) > 0) {}
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0) return pid == 0;
        for (int i = 0; i < COMMANDS_MAX; i++)
            if (commands[i].id && commands[i].pid == pid && !commands[i].has_exited) note_exit(&commands[i], status);
    }
}

/* --- starting --------------------------------------------------------------------------------------------------- */

static struct command *free_slot(void) {
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (!commands[i].id) return &commands[i];
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (commands[i].is_over) { /* its background children lose their streams; there is no room left */
            forget(&commands[i]);
            return &commands[i];
        }
    return NULL;
}

static void refuse(uint32_t id, uint32_t exit_code, const char *line) { send_line(id, REFUSED, exit_code, line); }

/* Point the strings of a START into its payload. Returns false if they are not what the counts say. */
static bool read_strings(struct start *start, const char *at, const char *end) {
    size_t count = (size_t)start->argc + start->envc + 2;
    if (!start->argc || start->argc > STRINGS_MAX || start->envc > STRINGS_MAX) return false;
    start->strings = calloc(count + 2, sizeof *start->strings);
    if (!start->strings) return false;
    for (size_t i = 0; i < count; i++) {
        const char *nul = memchr(at, 0, end - at);
        if (!nul) return false;
        /* argv and envp each end with a NULL of their own */
        start->strings[i + (i >= start->argc) + (i >= start->argc + start->envc)] = (char *)at;
        at = nul + 1;
    }
    start->argv = start->strings;
    start->envp = start->strings + start->argc + 1;
    start->directory = start->strings[start->argc + start->envc + 2];
    start->user = start->strings[start->argc + start->envc + 3];
    return at == end;
}

static void start_command(uint32_t id, const uint8_t *payload, size_t size) {
    struct start start = {0};
    if (size < 20 || find(id)) die("the host sent a bad START");
    start.is_terminal = get32(payload) & 1;
    start.rows = get16(payload + 4);
    start.columns = get16(payload + 6);
    uint32_t window = get32(payload + 8);
    start.argc = get32(payload + 12);
    start.envc = get32(payload + 16);
    const char *strings = (const char *)payload + 20;
    /* two more pointers than strings are allotted in read_strings, for the NULLs */
    if (!read_strings(&start, strings, (const char *)payload + size)) die("the host sent a bad START");
    struct command *command = is_leaving ? NULL : free_slot();
    if (!command) {
        refuse(id, 126, is_leaving ? "the machine is going down" : "too many commands are running in this machine");
        free(start.strings);
        return;
    }
    command->id = id;
    command->credit[0] = command->credit[1] = window;
    command->is_terminal = start.is_terminal;
    command->pending = malloc(STDIN_WINDOW);
    const char *problem = command->pending ? spawn(command, &start) : "out of memory";
    if (problem) {
        char line[MESSAGE_MAX];
        snprintf(line, sizeof line, "%s: %s", problem, strerror(errno));
        refuse(id, 126, line);
        forget(command);
    }
    free(start.strings);
}

/* The child has been executed, or has said why not. */
static void hear_news(struct command *command) {
    struct refusal refusal;
    ssize_t got = read(command->news, &refusal, sizeof refusal);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) return;
    shut(&command->news);
    if (got == sizeof refusal) {
        refusal.line[sizeof refusal.line - 1] = 0;
        uint32_t id = command->id;
        forget(command); /* the child is reaped as an orphan is */
        refuse(id, refusal.exit_code, refusal.line);
        return;
    }
    send_frame(command->id, STARTED, 0);
    if (command->is_terminal) end_stream(command, 1);
}

/* --- hearing ---------------------------------------------------------------------------------------------------- */

static void set_up(const uint8_t *payload, size_t size) {
    static char line[MESSAGE_MAX];
    if (is_set_up || size < 17 || payload[size - 1]) die("the host sent a bad SETUP");
    uint64_t now;
    memcpy(&now, payload + 4, 8);
    line[0] = 0;
    if (in_guest &&
        !set_up_guest(get32(payload), now, get32(payload + 12), (const char *)payload + 16, (const char *)payload + size, line)) {
        memcpy(output + HEADER, line, strlen(line));
        send_frame(0, FAILED, strlen(line));
        return;
    }
    is_set_up = true;
    uint64_t up = uptime_ns();
    memcpy(output + HEADER, &up, 8);
    send_frame(0, READY, 8);
}

/* TERM everything; the loop goes on, so that last words and exit codes are told. */
static void power_off(uint32_t grace_ms) {
    if (is_leaving) return;
    is_leaving = true;
    leave_by_ns = uptime_ns() + grace_ms * 1000000ull;
    if (!in_guest) return;
    for (int i = 0; i < COMMANDS_MAX; i++) /* an interactive shell heeds only this */
        if (commands[i].id && commands[i].is_terminal && !commands[i].has_exited) kill(-commands[i].pid, SIGHUP);
    kill(-1, SIGTERM);
    kill(-1, SIGCONT);
}

static void go_down(void) {
    static char line[MESSAGE_MAX];
    bool is_clean = true;
    if (in_guest) {
        end_everything();
        is_clean = leave_root(line);
    }
    send_line(0, DOWN, is_clean, line);
    is_down = true;
    leave_by_ns = uptime_ns() + HALT_MS * 1000000ull;
}

static void handle_machine(uint32_t kind, const uint8_t *payload, size_t size) {
    if (is_down && kind != HALT) return;
    switch (kind) {
    case SETUP: set_up(payload, size); break;
    case POWER_OFF:
        if (size != 4) die("the host sent a bad POWER_OFF");
        power_off(get32(payload));
        break;
    case HALT: halt_now(); break;
    default: die("the host sent a frame of unknown kind %u", kind);
    }
}

static void handle_command(uint32_t id, uint32_t kind, const uint8_t *payload, size_t size) {
    if (kind == START) {
        if (!is_set_up) die("the host started a command before SETUP");
        start_command(id, payload, size);
        return;
    }
    struct command *command = find(id);
    if (!command) return; /* it has just ended, and the host does not know yet */
    switch (kind) {
    case STDIN: take_stdin(command, payload, size); break;
    case SIGNAL:
        if (size != 4 || get32(payload) > 64) die("the host sent a bad SIGNAL");
        if (!command->has_exited) kill(-command->pid, get32(payload));
        break;
    case RESIZE:
        if (size != 4) die("the host sent a bad RESIZE");
        if (command->is_terminal) set_window(command->stream[0], get16(payload), get16(payload + 2));
        break;
    case GRANT:
        if (size != 8 || get32(payload) < 1 || get32(payload) > 2) die("the host sent a bad GRANT");
        command->credit[get32(payload) - 1] += get32(payload + 4);
        break;
    default: die("the host sent a frame of unknown kind %u", kind);
    }
}

/* Read what there is and act on every whole frame. */
static void hear_host(void) {
    while (input_size < sizeof input) { /* the port gives at most a page at a time */
        ssize_t got = read(port, input + input_size, sizeof input - input_size);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0 && errno == EAGAIN) break;
        if (got <= 0) { port = -1; die("the host is gone"); }
        input_size += got;
    }
    size_t at = 0;
    while (input_size - at >= HEADER) {
        size_t size = get32(input + at);
        if (size > FRAME_MAX) die("the host sent a frame of %zu bytes", size);
        if (input_size - at < HEADER + size) break;
        uint32_t id = get32(input + at + 4), kind = get32(input + at + 8);
        if (id && !is_down) handle_command(id, kind, input + at + HEADER, size);
        else if (!id) handle_machine(kind, input + at + HEADER, size);
        at += HEADER + size;
    }
    memmove(input, input + at, input_size - at);
    input_size -= at;
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static void watch(struct pollfd *polls, int *count, int fd, short events) {
    if (fd >= 0 && events) polls[(*count)++] = (struct pollfd){.fd = fd, .events = events};
}

static short revents(const struct pollfd *polls, int count, int fd) {
    for (int i = 0; i < count && fd >= 0; i++)
        if (polls[i].fd == fd) return polls[i].revents;
    return 0;
}

static bool is_starting(const struct command *command) { return command->news >= 0; }

static int list_polls(struct pollfd *polls) {
    int count = 0;
    watch(polls, &count, port, POLLIN);
    watch(polls, &count, children, POLLIN);
    for (int i = 0; i < COMMANDS_MAX; i++) {
        struct command *command = &commands[i];
        if (!command->id) continue;
        watch(polls, &count, command->news, POLLIN);
        if (is_starting(command)) continue; /* STARTED comes before any output */
        watch(polls, &count, command->in, command->pending_from < command->pending_size ? POLLOUT : 0);
        for (int which = 0; which < 2; which++)
            if (command->stream_ended[which] || command->credit[which])
                watch(polls, &count, command->stream[which], POLLIN);
    }
    return count;
}

static void serve_command(struct command *command, const struct pollfd *polls, int count) {
    if (revents(polls, count, command->news)) hear_news(command);
    if (!command->id || is_starting(command)) return;
    if (command->in >= 0 && (revents(polls, count, command->in) & (POLLOUT | POLLERR | POLLHUP))) feed(command);
    for (int which = 0; which < 2; which++) {
        if (command->stream[which] < 0) continue;
        bool is_ready = revents(polls, count, command->stream[which]);
        if (command->stream_ended[which] ? is_ready : (is_ready || command->has_exited))
            command->stream_ended[which] ? drop(command, which) : drain(command, which);
    }
    finish_if_over(command);
    if (command->is_over && command->stream[0] < 0 && command->stream[1] < 0) forget(command);
}

static void serve_commands(const struct pollfd *polls, int count) {
    for (int i = 0; i < COMMANDS_MAX; i++)
        if (commands[i].id) serve_command(&commands[i], polls, count);
}

static int wait_ms(void) {
    if (!is_leaving) return -1;
    uint64_t now = uptime_ns();
    return now >= leave_by_ns ? 0 : (leave_by_ns - now) / 1000000 + 1;
}

static void serve(void) {
    static struct pollfd polls[2 + 4 * COMMANDS_MAX];
    for (;;) {
        int count = list_polls(polls);
        if (poll(polls, count, wait_ms()) < 0) {
            if (errno != EINTR) die("poll: %m");
            continue;
        }
        bool has_children = reap();
        short from_host = revents(polls, count, port);
        if (from_host & POLLIN) hear_host();
        else if (from_host & (POLLHUP | POLLERR)) { port = -1; die("the host is gone"); }
        serve_commands(polls, count);
        bool is_late = is_leaving && uptime_ns() >= leave_by_ns;
        if (is_down && is_late) halt_now();
        if (is_leaving && !is_down && (!has_children || is_late)) go_down();
    }
}

/* KILL whatever runs, and tell the host what there is to tell. */
void end_everything(void) {
    static const struct pollfd none[1];
    uint64_t until = uptime_ns() + KILL_MS * 1000000ull;
    kill(-1, SIGKILL);
    while (reap() && uptime_ns() < until) {
        struct pollfd wait = {.fd = children, .events = POLLIN};
        poll(&wait, 1, 100);
    }
    if (port >= 0) serve_commands(none, 0);
    for (int i = 0; i < COMMANDS_MAX; i++) forget(&commands[i]);
}

int main(int argc, char **argv) {
    in_guest = getpid() == 1;
    for (int i = 0; i < COMMANDS_MAX; i++) forget(&commands[i]);
    signal(SIGPIPE, SIG_IGN);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    children = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (in_guest) {
        port = open_port();
    } else {
        if (argc != 2) return 2;
        port = atoi(argv[1]);
        fcntl(port, F_SETFD, FD_CLOEXEC);
        fcntl(port, F_SETFL, O_NONBLOCK);
    }
    uint64_t up = uptime_ns();
    put32(output + HEADER, PROTOCOL_VERSION);
    memcpy(output + HEADER + 4, &up, 8);
    send_frame(0, HELLO, 12);
    serve();
}
