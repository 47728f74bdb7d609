//! What tests with a daemon share: the daemon, on a socket in a directory of its own; child processes of the test's own
//! program; random numbers that can be repeated.
//!
//! `$GOALLOCD` and `$GOALLOCCTL` are the programs (else those in `$PATH`), `$GOALLOC_TEST_DIR` is where directories are
//! made (else in the system's for temporary files), `$GOALLOC_TEST_SEED` repeats the random numbers of a run, and
//! `$GOALLOC_TEST_RESERVE` is the size of the daemons' arenas (else the daemon's default).
#![allow(dead_code)] // not every test program uses all of it

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use goalloc::{Builder, Session};

/// A process has one session at a time, so tests of one program take turns.
static TURN: Mutex<()> = Mutex::new(());

/// A daemon with a keeper: it can be killed, and the next one takes the heap over.
pub struct Daemon {
    dir: PathBuf,
    process: Child,
    stopped: bool,
    _turn: MutexGuard<'static, ()>,
}

fn tool(variable: &str, name: &str) -> Command {
    Command::new(env::var_os(variable).unwrap_or_else(|| name.into()))
}

fn spawn(dir: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = tool("GOALLOCD", "goallocd");
    command.args(["--config", "", "--on-stop", "drop", "--socket"]).arg(dir.join("socket"));
    if let Ok(reserve) = env::var("GOALLOC_TEST_RESERVE") {
        command.args(["--reserve", &reserve]);
    }
    command.arg("--state-dir").arg(dir.join("state")).stdin(Stdio::null()).stderr(log);
    // SAFETY: a system call, between fork and exec. If the test is killed, the daemon ends, and its keeper.
    unsafe { command.pre_exec(|| with_parent(15)) };
    command.spawn().expect("GOALLOCD has to name goallocd, or PATH to find it")
}

/// For who attaches without a daemon of this file's.
pub fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// A new directory for a test.
pub fn new_dir(name: &str) -> PathBuf {
    let base = env::var_os("GOALLOC_TEST_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let dir = base.join(format!("{}-{}", name, std::process::id()));
    fs::create_dir(&dir).unwrap();
    dir
}

impl Daemon {
    pub fn start(name: &str) -> Daemon {
        let turn = turn();
        let dir = new_dir(name);
        fs::create_dir(dir.join("state")).unwrap();
        let process = spawn(&dir);
        Daemon { dir, process, stopped: false, _turn: turn }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn socket(&self) -> String {
        self.dir.join("socket").to_str().unwrap().to_string()
    }

    pub fn builder(&self) -> Builder {
        builder(&self.socket())
    }

    /// A session of the test's own process.
    pub fn attach(&self) -> Session {
        // SAFETY: this heap is the test's, and no test keeps a pointer when it is over.
        unsafe { self.builder().attach() }.unwrap()
    }

    pub fn ctl(&self, arguments: &[&str]) {
        let done =
            tool("GOALLOCCTL", "goallocctl").arg("--socket").arg(self.socket()).args(arguments).output().unwrap();
        assert!(done.status.success(), "goallocctl {:?}: {:?}", arguments, done);
    }

    /// kill -9, and the next one, which takes the heap over.
    pub fn replace(&mut self) {
        self.kill();
        self.start_again();
    }

    /// kill -9, and nobody who takes the heap over before start_again().
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.process = spawn(&self.dir);
    }

    /// Another heap, after the old one was dropped.
    pub fn drop_heap(&mut self) {
        self.ctl(&["drop", "--yes"]);
        wait_for(&mut self.process);
        self.process = spawn(&self.dir);
    }

    /// Stops it, which it must bear: its tables are right, and it ends well.
    pub fn stop(mut self) {
        self.ctl(&["check"]);
        self.stopped = true;
        terminate(&self.process);
        let status = wait_for(&mut self.process);
        assert!(status.success(), "goallocd: {:?}\n{}", status, fs::read_to_string(self.dir.join("log")).unwrap());
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// A test that has failed leaves nothing, either.
impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.stopped {
            eprintln!("{}", fs::read_to_string(self.dir.join("log")).unwrap_or_default());
            terminate(&self.process);
            wait_for(&mut self.process);
            let state = self.dir.join("state");
            let _ =
                tool("GOALLOCCTL", "goallocctl").args(["keeper", "--end", "--yes", "--state-dir"]).arg(state).output();
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

pub fn builder(socket: &str) -> Builder {
    Session::builder().socket(socket).wait().timeout(Duration::from_secs(20))
}

extern "C" {
    fn kill(pid: i32, signal: i32) -> i32;
    fn prctl(option: i32, ...) -> i32;
}

/// This process gets the signal when the thread ends that has started it.
fn with_parent(signal: u64) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG, a number.
    match unsafe { prctl(1, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn terminate(process: &Child) {
    // SAFETY: a child that was not waited for.
    unsafe { kill(process.id() as i32, 15) };
}

/// kill -9 of this process itself.
pub fn die() -> ! {
    // SAFETY: it is this process.
    unsafe { kill(std::process::id() as i32, 9) };
    unreachable!()
}

/// The end of a child, which has 60 s for it.
pub fn wait_for(process: &mut Child) -> ExitStatus {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > end {
            let _ = process.kill();
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// This test program once more, as another process: its test `worker`, which finds the role and what it is told in the
/// environment.
pub fn start_worker(daemon: &Daemon, role: &str, told: &str) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    // SAFETY: as spawn(). A worker does not outlive its test.
    unsafe { command.pre_exec(|| with_parent(9)) };
    command
        .args(["--exact", "worker", "--ignored", "--nocapture"])
        .env("GOALLOC_TEST_ROLE", role)
        .env("GOALLOC_TEST_TOLD", told)
        .env("GOALLOC_SOCKET", daemon.socket())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// xorshift64*
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        let seed = match env::var("GOALLOC_TEST_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64,
        };
        println!("GOALLOC_TEST_SEED={}", seed);
        Random(seed | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}
