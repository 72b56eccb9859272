/* The seccomp program that bubblewrap loads before the interpreter starts. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "eval/jail.h"
#include "mpi/error.h"

#if defined(__x86_64__)
#define NATIVE_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE_ARCH AUDIT_ARCH_AARCH64
#endif

#ifdef NATIVE_ARCH
/* Refused with EPERM. A list of what is refused, not of what is allowed, because interpreters and C
 * libraries change; namespaces, lost capabilities and limits are what it stands on. */
/* clang-format off */
static const int refused[] = {
    /* other processes, kernel state */
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_bpf,
    SYS_perf_event_open, SYS_userfaultfd, SYS_keyctl, SYS_add_key, SYS_request_key, SYS_syslog,
    SYS_acct, SYS_quotactl, SYS_reboot, SYS_kexec_load, SYS_init_module, SYS_finit_module,
    SYS_delete_module, SYS_swapon, SYS_swapoff, SYS_sethostname, SYS_setdomainname,
    SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime, SYS_personality,
    SYS_vhangup, SYS_fanotify_init,
    /* the view of the file system */
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_setns, SYS_unshare,
    SYS_name_to_handle_at, SYS_open_by_handle_at,
    /* memory that no limit counts; where memory lies */
    SYS_memfd_create, SYS_shmget, SYS_msgget, SYS_semget, SYS_mq_open, SYS_migrate_pages,
    SYS_move_pages, SYS_mbind, SYS_set_mempolicy,
    /* network: socketpair() alone is left */
    SYS_socket,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_open_tree
    SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick,
#endif
#ifdef SYS_mount_setattr
    SYS_mount_setattr,
#endif
#ifdef SYS_io_uring_setup
    SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
#endif
#ifdef SYS_pidfd_getfd
    SYS_pidfd_getfd,
#endif
#ifdef SYS_process_madvise
    SYS_process_madvise,
#endif
#ifdef SYS_memfd_secret
    SYS_memfd_secret,
#endif
#ifdef SYS_quotactl_fd
    SYS_quotactl_fd,
#endif
#if defined(__x86_64__)
    SYS_iopl, SYS_ioperm, SYS_modify_ldt,
#endif
};
/* clang-format on */
enum { N_REFUSED = sizeof refused / sizeof *refused };

/* include/uapi/linux/sched.h, which does not go with <sched.h> */
enum {
    NEW_NAMESPACES = 0x00020000 /* NEWNS */ | 0x02000000 /* NEWCGROUP */ | 0x04000000 /* NEWUTS */ |
                     0x08000000 /* NEWIPC */ | 0x10000000 /* NEWUSER */ | 0x20000000 /* NEWPID */ |
                     0x40000000 /* NEWNET */
};

int jail_make_filter(struct jail *jail)
{
    struct sock_filter code[2 * N_REFUSED + 32];
    size_t n = 0;
#define PUT(...) code[n++] = (struct sock_filter)__VA_ARGS__
#define LOAD(member)                                                                               \
    PUT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, member)))
#define IF_EQUAL(value, yes, no)                                                                   \
    PUT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(value), yes, no))
#define RETURN(value) PUT(BPF_STMT(BPF_RET | BPF_K, (unsigned)(value)))
#define FAIL_WITH(code) (SECCOMP_RET_ERRNO | (code))
    LOAD(arch);
    IF_EQUAL(NATIVE_ARCH, 1, 0);
    RETURN(SECCOMP_RET_KILL_PROCESS);
    LOAD(nr);
#if defined(__x86_64__)
    PUT(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1)); /* x32 */
    RETURN(FAIL_WITH(ENOSYS));
#endif
    for (size_t i = 0; i < N_REFUSED; i++) {
        IF_EQUAL(refused[i], 0, 1);
        RETURN(FAIL_WITH(EPERM));
    }
#ifdef SYS_clone3
    /* Its flags lie in memory, where no filter sees them; the C library then takes clone(). */
    IF_EQUAL(SYS_clone3, 0, 1);
    RETURN(FAIL_WITH(ENOSYS));
#endif
    /* Little-endian: args[i] begins with its low half. */
    IF_EQUAL(SYS_clone, 0, 3);
    LOAD(args[0]);
    PUT(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (unsigned)NEW_NAMESPACES, 0, 4));
    RETURN(FAIL_WITH(EPERM));
    IF_EQUAL(SYS_ioctl, 0, 2);
    LOAD(args[1]);
    IF_EQUAL(TIOCSTI, 1, 0);
    RETURN(SECCOMP_RET_ALLOW);
    RETURN(FAIL_WITH(EPERM));
#undef PUT
#undef LOAD
#undef IF_EQUAL
#undef RETURN
#undef FAIL_WITH
    jail->n_filter = n * sizeof *code;
    jail->filter = malloc(jail->n_filter);
    if (!jail->filter)
        return error_set("out of memory");
    memcpy(jail->filter, code, jail->n_filter);
    return 0;
}
#else
int jail_make_filter(struct jail *jail)
{
    (void)jail;
    return 0;
}
#endif
