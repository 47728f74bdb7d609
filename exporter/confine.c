/*
 * Confine: what this process gives up before it serves.
 *
 * Called by main, once it listens. What is left to whoever gets hold of it is the daemon's socket, as any client has
 * it, and TCP. The unit takes more away (goallocd-exporter.service.in); this is for an exporter without systemd.
 *
 *   no_new_privs    no set-uid program gives it anything
 *   Landlock        no file or directory is opened, made or run; a connect() to a socket's path is none of these. A
 *                   kernel before 5.13 has no Landlock
 *   capabilities    none; but as root the one by which root may connect to the daemon's socket, whose mode does not
 *                   name root
 *   descriptors     as many as there may be connections
 */
#include "exporter/confine.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) /* which looks for leaks at the end, in /proc */
#define READS_FILES 0u
#else
#define READS_FILES (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#endif

static int forbid_files(void)
{
    const struct landlock_ruleset_attr attr = {
        .handled_access_fs = READS_FILES | LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                             LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                             LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                             LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                             LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM,
    };
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr.handled_access_fs), 0);
    int r;

    if (ruleset < 0)
        return errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -errno;
    r = syscall(SYS_landlock_restrict_self, ruleset, 0) < 0 ? -errno : 0;
    (void)close(ruleset);
    return r;
}

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
    unsigned kept = geteuid() == 0 ? 1u << CAP_DAC_OVERRIDE : 0;

    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    kept &= data[0].permitted;
    if (data[0].permitted == kept && data[1].permitted == 0) /* the unit's filter of system calls lacks the next one */
        return 0;
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    memset(data, 0, sizeof(data));
    data[0].permitted = data[0].effective = kept;
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* Never more than there were. */
static int limit_descriptors(unsigned n)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    limit.rlim_max = limit.rlim_max < n ? limit.rlim_max : n;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? -errno : 0;
}

int confine(unsigned ndescriptors)
{
    int r = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
    int r_files = forbid_files();
    int r_caps = drop_capabilities();
    int r_descriptors = limit_descriptors(ndescriptors);

    return r < 0 ? r : r_files < 0 ? r_files : r_caps < 0 ? r_caps : r_descriptors;
}
