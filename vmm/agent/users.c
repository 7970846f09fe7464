/* Users and groups, as the tree's own /etc/passwd and /etc/group have them. No libc here: its ways depend on which one it is. */
#define _GNU_SOURCE
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool read_number(const char *text, uint32_t *number) {
    char *end;
    if (*text < '0' || *text > '9') return false;
    errno = 0;
    unsigned long long found = strtoull(text, &end, 10);
    if (*end || errno || found >= UINT32_MAX) return false;
    *number = found;
    return true;
}

/* Split a line at its colons; returns how many fields. */
static int split(char *line, char *fields[], int most) {
    int count = 0;
    line[strcspn(line, "\n")] = 0;
    while (count < most) {
        fields[count++] = line;
        line = strchr(line, ':');
        if (!line) break;
        *line++ = 0;
    }
    return count;
}

static bool is_listed(const char *name, char *members) {
    for (char *rest = members, *member; (member = strsep(&rest, ","));)
        if (!strcmp(member, name)) return true;
    return false;
}

/* A fifo or a device in place of these files must not stop the agent's child for ever. */
static FILE *open_list(const char *path) {
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? NULL : fdopen(fd, "r");
}

/* Find the user by name, or by number, whose entry gives group and home. */
static bool read_passwd(const char *text, const uint32_t *number, struct user *user, char name[static 256]) {
    FILE *file = open_list("/etc/passwd");
    char *line = NULL, *fields[7];
    size_t room = 0;
    bool found = false;
    while (file && !found && getline(&line, &room, file) > 0) {
        uint32_t uid, gid;
        if (split(line, fields, 7) < 6 || !read_number(fields[2], &uid) || !read_number(fields[3], &gid)) continue;
        if (number ? uid != *number : strcmp(fields[0], text)) continue;
        user->uid = uid;
        user->gid = gid;
        snprintf(user->home, sizeof user->home, "%s", *fields[5] ? fields[5] : "/");
        snprintf(name, 256, "%s", fields[0]);
        found = true;
    }
    free(line);
    if (file) fclose(file);
    return found;
}

/* Add the groups that list the user, or find one group by its name. */
static bool read_group(const char *member, const char *group, struct user *user) {
    FILE *file = open_list("/etc/group");
    char *line = NULL, *fields[4];
    size_t room = 0;
    bool found = false;
    while (file && !found && getline(&line, &room, file) > 0) {
        uint32_t gid;
        int count = split(line, fields, 4);
        if (count < 3 || !read_number(fields[2], &gid)) continue;
        if (group && !strcmp(fields[0], group)) {
            user->gid = gid;
            found = true;
        }
        if (member && count == 4 && is_listed(member, fields[3]) &&
            user->group_count < sizeof user->groups / sizeof *user->groups)
            user->groups[user->group_count++] = gid;
    }
    free(line);
    if (file) fclose(file);
    return found;
}

bool find_user(const char *text, struct user *user, char line[static 512]) {
    char who[256] = "", name[256] = "";
    uint32_t number = 0;
    const char *group = strchr(text, ':');
    if (!*text) { /* root, whose home may be told */
        if (!read_passwd(NULL, &number, user, name)) user->uid = 0;
        user->uid = user->gid = 0;
        return true;
    }
    snprintf(who, sizeof who, "%.*s", (int)(group ? group - text : (ptrdiff_t)strlen(text)), text);
    bool is_number = read_number(who, &number);
    if (!read_passwd(who, is_number ? &number : NULL, user, name)) {
        if (!is_number) {
            snprintf(line, 512, "there is no user %.200s in this tree's /etc/passwd", who);
            return false;
        }
        user->uid = number;
        user->gid = 0;
    }
    if (group) {
        uint32_t gid;
        if (read_number(group + 1, &gid)) {
            user->gid = gid;
        } else if (!read_group(NULL, group + 1, user)) {
            snprintf(line, 512, "there is no group %.200s in this tree's /etc/group", group + 1);
            return false;
        }
    } else if (*name) {
        read_group(name, NULL, user);
    }
    if (user->group_count < sizeof user->groups / sizeof *user->groups) user->groups[user->group_count++] = user->gid;
    return true;
}
