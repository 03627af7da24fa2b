//! What a process that parses foreign content may still ask of the kernel: memory, reading and
//! writing what is open, and to end. No file is opened, no socket made, no process started.

use std::io;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, EPERM, PR_SET_SECCOMP,
    SECCOMP_MODE_FILTER, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, c_long, sock_filter, sock_fprog,
};

/// The calls of one kind of processor have numbers of their own (`AUDIT_ARCH_*` of the kernel).
#[cfg(target_arch = "x86_64")]
const ARCH: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCH: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: Option<u32> = None;

/// Offsets in what a filter is shown (`struct seccomp_data`).
const CALL: u32 = 0;
const CALL_ARCH: u32 = 4;

/// Everything else fails with EPERM.
const ALLOWED: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat, // how a C library asks about what is open
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getpid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

const fn step(code: u32, k: u32, (jt, jf): (u8, u8)) -> sock_filter {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "codes of the filter have 16 bits"
    )]
    let code = code as u16;
    sock_filter { code, jt, jf, k }
}

/// For good; the thread must not be able to gain rights any more (`no_new_privs`).
pub(crate) fn only_compute() -> io::Result<()> {
    let arch = ARCH.ok_or(io::ErrorKind::Unsupported)?;
    let refuse = SECCOMP_RET_ERRNO | EPERM.cast_unsigned();
    let (load, equal, answer) = (
        BPF_LD | BPF_W | BPF_ABS,
        BPF_JMP | BPF_JEQ | BPF_K,
        BPF_RET | BPF_K,
    );
    let mut steps = vec![
        step(load, CALL_ARCH, (0, 0)),
        step(equal, arch, (1, 0)),
        step(answer, refuse, (0, 0)),
        step(load, CALL, (0, 0)),
    ];
    for call in ALLOWED {
        let call = u32::try_from(*call).map_err(io::Error::other)?;
        steps.push(step(equal, call, (0, 1)));
        steps.push(step(answer, SECCOMP_RET_ALLOW, (0, 0)));
    }
    steps.push(step(answer, refuse, (0, 0)));
    let program = sock_fprog {
        len: u16::try_from(steps.len()).map_err(io::Error::other)?,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program and its steps live through the call, which copies them.
    let set = unsafe { libc::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use super::*;

    #[test]
    fn nothing_can_be_opened_connected_or_started() {
        // The filter is that of a thread and of what it starts.
        let refused = std::thread::spawn(|| {
            rustix::thread::set_no_new_privs(true).unwrap();
            only_compute().unwrap();
            let code = |error: io::Error| error.raw_os_error();
            [
                File::open("/proc/self/status").err().and_then(code),
                UnixStream::pair().err().and_then(code),
                Command::new("/bin/true").spawn().err().and_then(code),
            ]
        });
        assert_eq!(refused.join().unwrap(), [Some(EPERM); 3]);
    }
}
