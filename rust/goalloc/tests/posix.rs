//! posix: what the crate says of the C library is what the C compiler says.
use std::fmt::Write as _;
use std::mem::{align_of, size_of};
use std::process::Command;
use std::{env, fs};

use goalloc::posix;

mod common;

#[test]
fn numbers_and_sizes_are_those_of_the_c_library() {
    let (mut rust, mut c) = (String::new(), String::new());
    macro_rules! same {
        ($($ours:expr, $theirs:literal;)*) => { $(
            writeln!(rust, "{} {}", $theirs, $ours as u64).unwrap();
            writeln!(c, "    printf(\"%s %llu\\n\", \"{0}\", (unsigned long long)({0}));", $theirs).unwrap();
        )* };
    }
    same! {
        size_of::<posix::RawMutex>(), "sizeof(pthread_mutex_t)";
        align_of::<posix::RawMutex>(), "_Alignof(pthread_mutex_t)";
        size_of::<posix::RawMutexAttr>(), "sizeof(pthread_mutexattr_t)";
        align_of::<posix::RawMutexAttr>(), "_Alignof(pthread_mutexattr_t)";
        size_of::<posix::Timespec>(), "sizeof(struct timespec)";
        size_of::<posix::PollFd>(), "sizeof(struct pollfd)";
        posix::PTHREAD_MUTEX_ERRORCHECK, "PTHREAD_MUTEX_ERRORCHECK";
        posix::PTHREAD_PROCESS_SHARED, "PTHREAD_PROCESS_SHARED";
        posix::PTHREAD_MUTEX_ROBUST, "PTHREAD_MUTEX_ROBUST";
        posix::CLOCK_MONOTONIC, "CLOCK_MONOTONIC";
        posix::POLLIN, "POLLIN";
    }
    for (name, error) in [
        ("EPERM", goalloc::Error::NotOwner),
        ("ENOENT", goalloc::Error::NoSocket),
        ("EAGAIN", goalloc::Error::Again),
        ("ENOMEM", goalloc::Error::OutOfMemory),
        ("EACCES", goalloc::Error::Denied),
        ("EBUSY", goalloc::Error::Busy),
        ("ENOSPC", goalloc::Error::Full),
        ("EROFS", goalloc::Error::ReadOnly),
        ("EDEADLK", goalloc::Error::Deadlock),
        ("EILSEQ", goalloc::Error::BadName),
        ("ENOTCONN", goalloc::Error::NotAttached),
        ("ETIMEDOUT", goalloc::Error::TimedOut),
        ("EALREADY", goalloc::Error::NotLive),
        ("ESTALE", goalloc::Error::Stale),
        ("EDQUOT", goalloc::Error::Limit),
        ("EMEDIUMTYPE", goalloc::Error::WrongType),
    ] {
        writeln!(rust, "{} {}", name, error.errno()).unwrap();
        writeln!(c, "    printf(\"{0} %d\\n\", {0});", name).unwrap();
        assert!(!error.to_string().is_empty());
    }

    let dir = common::new_dir("posix");
    let (source, program) = (dir.join("program.c"), dir.join("program"));
    let head = "#include <errno.h>\n#include <poll.h>\n#include <pthread.h>\n#include <stdio.h>\n#include <time.h>\n";
    fs::write(&source, format!("{}int main(void)\n{{\n{}    return 0;\n}}\n", head, c)).unwrap();
    let compiled = Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_string()))
        .args(["-std=c11", "-D_GNU_SOURCE", "-o"])
        .args([&program, &source])
        .output()
        .unwrap();
    let printed = compiled.status.success().then(|| Command::new(&program).output().unwrap());
    fs::remove_dir_all(&dir).unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    assert_eq!(rust, String::from_utf8(printed.unwrap().stdout).unwrap());
}
