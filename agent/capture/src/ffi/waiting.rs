//! A lock that is waited for, and not for ever.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{Bytes, Lock, flock, lock};

/// Takes the bytes shared for the open file behind `file`, like [`super::lock`], as soon as nobody
/// holds them exclusively. `false`: somebody still did after `patience`, which must not be zero.
///
/// The kernel wakes the thread when the holder lets go, and knows no time limit for that; so an
/// alarm of this thread's own interrupts the call (`fcntl(2)`, `F_OFD_SETLKW`, EINTR).
pub(crate) fn lock_within(file: &File, bytes: Bytes, patience: Duration) -> io::Result<bool> {
    let request = flock(libc::F_RDLCK, bytes);
    let begun = Instant::now();
    let Ok(_alarm) = Alarm::set(patience) else {
        return lock(file, bytes, Lock::Shared); // no timer to be had: never without a bound
    };
    loop {
        // SAFETY: `request` lives through the call, the descriptor is open as `file` is borrowed,
        // and F_OFD_SETLKW reads the structure only.
        let result =
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, &raw const request) };
        if result == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
        if begun.elapsed() >= patience {
            return Ok(false);
        }
    }
}

/// A signal for this thread each time that a while is over: one that came before the thread waits
/// would be lost.
struct Alarm(libc::timer_t);

impl Alarm {
    fn set(every: Duration) -> io::Result<Self> {
        let signal = alarm_signal()?;
        // SAFETY: all zeroes are a valid `sigevent`, whose fields that count are set below.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal;
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer = std::ptr::null_mut();
        // SAFETY: `event` is read and `timer` written during the call.
        let made =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        let alarm = Self(timer);
        let every = libc::timespec {
            tv_sec: every.as_secs().cast_signed(),
            tv_nsec: i64::from(every.subsec_nanos()),
        };
        let times = libc::itimerspec {
            it_interval: every,
            it_value: every,
        };
        // SAFETY: the timer is ours and alive; `times` is read during the call, and nothing written.
        let set =
            unsafe { libc::timer_settime(alarm.0, 0, &raw const times, std::ptr::null_mut()) };
        if set == 0 {
            Ok(alarm)
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours, and not used after this.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// A signal that does nothing but to interrupt; its handler is set up once for the process.
fn alarm_signal() -> io::Result<c_int> {
    extern "C" fn nothing(_: c_int) {}
    static SET_UP: OnceLock<Result<c_int, i32>> = OnceLock::new();
    let set_up = SET_UP.get_or_init(|| {
        // Real-time signals have no meaning of their own; the first is often taken by profilers.
        let signal = libc::SIGRTMIN() + 3;
        // SAFETY: all zeroes are a valid `sigaction`: no flags (so calls are interrupted and not
        // begun again), an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
        // SAFETY: the handler touches nothing, so it may run anywhere; `action` is read only.
        let set = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        if set == 0 {
            Ok(signal)
        } else {
            Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
        }
    });
    set_up.map_err(io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::is_lock_waited_for;

    const BYTE: Bytes = Bytes { start: 123, len: 1 };

    /// The file, and another open file of it that holds the byte exclusively.
    fn held() -> (File, File) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shm");
        let holder = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let request = flock(libc::F_WRLCK, BYTE);
        // SAFETY: as in `super::super::lock`.
        let locked =
            unsafe { libc::fcntl(holder.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
        assert_eq!(locked, 0);
        (File::open(&path).unwrap(), holder)
    }

    #[test]
    fn what_is_free_is_had_at_once() {
        let (file, holder) = held();
        lock(&holder, BYTE, Lock::Release).unwrap();
        assert!(lock_within(&file, BYTE, Duration::from_mins(10)).unwrap());
    }

    #[test]
    fn a_holder_that_lets_go_is_outwaited() {
        let (file, holder) = held();
        let had = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock_within(&file, BYTE, Duration::from_mins(10)));
            while !is_lock_waited_for(file.as_raw_fd()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            lock(&holder, BYTE, Lock::Release).unwrap();
            waiting.join().unwrap()
        });
        assert!(had.unwrap());
    }

    #[test]
    fn a_holder_that_does_not_let_go_is_given_up() {
        let (file, _holder) = held();
        for _ in 0..20 {
            assert!(!lock_within(&file, BYTE, Duration::from_millis(2)).unwrap());
        }
    }

    #[test]
    fn many_may_wait_at_once() {
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                std::thread::spawn(|| {
                    let (file, _holder) = held();
                    lock_within(&file, BYTE, Duration::from_millis(20)).unwrap()
                })
            })
            .collect();
        assert!(waiting.into_iter().all(|wait| !wait.join().unwrap()));
    }
}
