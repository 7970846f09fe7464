/* What the agent's parts share. Numbers as in PROTOCOL.md and vmm/limits.py; a test compares them. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    PROTOCOL_VERSION = 1,
    HEADER = 12,
    FRAME_MAX = 262144,
    STDIN_WINDOW = 262144,
    COMMANDS_MAX = 64,
    STRINGS_MAX = 16384,
    MESSAGE_MAX = 4096,
    HALT_MS = 10000, /* from DOWN to switching off without having heard HALT */
    KILL_MS = 10000, /* for killed processes to be gone */
};

enum { /* from the host */
    SETUP = 1,
    START = 2,
    STDIN = 3,
    SIGNAL = 4,
    RESIZE = 5,
    GRANT = 6,
    POWER_OFF = 7,
    HALT = 8,
};

enum { /* from the guest */
    HELLO = 64,
    READY = 65,
    FAILED = 66,
    DOWN = 67,
    STARTED = 68,
    REFUSED = 69,
    TAKEN = 70,
    STDIN_CLOSED = 71,
    STDOUT = 72,
    STDERR = 73,
    EXIT = 74,
};

struct command {
    uint32_t id; /* 0: this slot is free */
    pid_t pid;
    int news; /* the child writes a refusal here, or closes it by executing */
    bool is_terminal;
    int in; /* of a terminal: a second descriptor of the master, which is stream[0] */
    uint8_t *pending; /* stdin that the command did not take yet */
    size_t pending_from, pending_size;
    size_t stdin_held;
    bool stdin_ends;
    int stream[2];
    uint64_t credit[2];
    size_t left[2]; /* in its pipes when it exited */
    bool stream_ended[2];
    bool has_exited;
    uint32_t exit_code;
    bool is_over; /* EXIT was sent; what background children write is dropped */
};

struct start {
    bool is_terminal;
    uint16_t rows, columns;
    uint32_t argc, envc;
    char **strings; /* owns the two lists */
    char **argv, **envp;
    const char *directory, *user;
};

struct refusal { /* less than a pipe writes in one piece */
    uint32_t exit_code;
    char line[1020];
};

void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

void end_everything(void);

/* spawn.c: returns NULL or what failed, with errno */
const char *spawn(struct command *command, const struct start *start);
void set_window(int terminal, uint16_t rows, uint16_t columns);

/* users.c: in the tree's own /etc; false and a line if there is no such user */
struct user {
    uid_t uid;
    gid_t gid;
    gid_t groups[256];
    size_t group_count;
    char home[1024];
};
bool find_user(const char *text, struct user *user, char line[static 512]);

/* guest.c: what only PID 1 does */
int open_port(void);
bool set_up_guest(uint32_t flags, uint64_t now_ns, uint32_t volumes, const char *strings, const char *end,
                  char line[static MESSAGE_MAX]);
bool leave_root(char line[static MESSAGE_MAX]);
