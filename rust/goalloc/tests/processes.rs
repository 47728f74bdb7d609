//! processes: separately started processes on one heap, which are killed, and whose daemon is killed.
//!
//! Each process is this program again, in its test `worker` with a role (common/mod.rs). The test's own process
//! supervises, and looks in the end whether all is as it must be: every object that was inserted and not removed is in
//! the list, once, and no other object lives.
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use goalloc::{Error, Event, Mutex, Repair, Session, Slot};

mod common;
use common::{die, start_worker, wait_for, Daemon, Random};

goalloc::shareable! {
    struct Job as "test.storm.job" {
        next: Slot<Job>,
        number: u64,
        check: u64,
    }
}

goalloc::shareable! {
    struct Tally as "test.storm.tally" {
        parts: [u64; WORKERS],
        total: u64,
        repairs: u64,
    }
}

impl Repair for Tally {
    fn repair(&mut self) {
        self.total = self.parts.iter().sum();
        self.repairs += 1;
    }
}

goalloc::shareable! {
    /// What the workers of the storm share.
    struct Board as "test.storm.board" {
        jobs: Mutex<Slot<Job>>,
        tally: Mutex<Tally>,
        rounds: AtomicU64,
        stop: AtomicBool,
    }
}

const WORKERS: usize = 4;
const LONG: Duration = Duration::from_secs(20);

fn new_board() -> Board {
    Board {
        jobs: Mutex::new(Slot::empty()),
        tally: Mutex::new(Tally { parts: [0; WORKERS], total: 0, repairs: 0 }),
        rounds: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    }
}

/// What the test of that name is when it is started as a worker.
#[test]
#[ignore]
fn worker() {
    let told = env::var("GOALLOC_TEST_TOLD").unwrap_or_default();
    match env::var("GOALLOC_TEST_ROLE").as_deref() {
        Ok("race") => race(&told),
        Ok("holder") => holder(),
        Ok("storm") => storm(told.parse().unwrap()),
        Ok("fork") => fork_and_look(),
        Ok(other) => panic!("no role {}", other),
        Err(_) => {} // cargo test -- --ignored
    }
}

fn attach() -> Session {
    let socket = env::var("GOALLOC_SOCKET").unwrap();
    // SAFETY: the heap is the test's.
    unsafe { common::builder(&socket).reclaim().label("worker").attach() }.unwrap()
}

/// Makes the root, unless another one does. The first one of all dies while it makes it.
fn race(told: &str) {
    let (name, marker) = told.split_once(' ').unwrap();
    let session = attach();
    let root = session
        .find_or_insert(name, || {
            if fs::OpenOptions::new().write(true).create_new(true).open(marker).is_ok() {
                die();
            }
            thread::sleep(Duration::from_millis(5));
            AtomicU64::new(100)
        })
        .unwrap();
    root.fetch_add(1, Ordering::Relaxed);
    process::exit(if root.is_new() { 11 } else { 10 });
}

#[test]
fn a_root_has_one_winner_also_if_the_first_dies() {
    let daemon = Daemon::start("race");
    let session = daemon.attach();
    for round in 0..5 {
        let name = format!("root.{}", round);
        let told = format!("{} {}", name, daemon.dir().join(&name).display());
        let mut racers: Vec<_> = (0..6).map(|_| start_worker(&daemon, "race", &told)).collect();
        let ends: Vec<_> = racers.iter_mut().map(wait_for).collect();
        let of = |code| ends.iter().filter(|status| status.code() == Some(code)).count();
        let killed = ends.iter().filter(|status| status.signal() == Some(9)).count();
        assert_eq!((of(11), of(10), killed), (1, 4, 1), "{:?}", ends);
        let root = session.find::<AtomicU64>(&name).unwrap().unwrap();
        assert_eq!(root.load(Ordering::Relaxed), 105);
    }
    drop(session);
    daemon.stop();
}

/// Dies with the lock, in the middle of a change.
fn holder() {
    let session = attach();
    let board = session.wait_for::<Board>("board", LONG).unwrap();
    let _ = board.tally.lock(|tally| {
        tally.parts[0] = 7;
        die();
    });
}

#[test]
fn a_mutex_whose_holder_has_died_is_repaired_and_events_tell() {
    let mut daemon = Daemon::start("holder");
    let session = daemon.attach();
    let mut events = session.events().unwrap();
    let board = session.find_or_insert("board", new_board).unwrap();
    for round in 1..=3 {
        let mut holder = start_worker(&daemon, "holder", "");
        let holder_pid = holder.id() as i32;
        assert_eq!(wait_for(&mut holder).signal(), Some(9));
        let seen = board.tally.lock_for(LONG, |tally| (tally.total, tally.repairs));
        assert_eq!(seen, Ok((7, round)));
        board.tally.lock(|tally| tally.parts[0] = 0).unwrap();
        loop {
            match events.next_within(LONG).unwrap().expect("an event") {
                Event::SessionEnd { pid, died, label, .. } if pid == holder_pid => {
                    assert!(died);
                    assert_eq!(label, "worker");
                    break;
                }
                _ => {}
            }
        }
    }
    daemon.replace(); // the lock does not depend on it, and the session comes back
    assert_eq!(board.tally.lock(|tally| tally.repairs), Ok(3));
    assert!(session.find::<Board>("board").unwrap().is_some());
    drop(session);
    daemon.stop();
}

/// Until it is told to stop, or killed.
fn storm(number: usize) {
    let session = attach();
    let board = session.wait_for::<Board>("board", LONG).unwrap().shared().get();
    let mut random = Random::new();
    while !board.stop.load(Ordering::Relaxed) {
        for _ in 0..random.below(4) {
            let number = random.below(1 << 30);
            let job = session.alloc(Job { next: Slot::empty(), number, check: !number }).unwrap();
            board.jobs.lock(|first| first.insert(job, |job| &mut job.next)).unwrap().unwrap();
        }
        board
            .tally
            .lock(|tally| {
                assert_eq!(tally.total, tally.parts.iter().sum::<u64>());
                tally.parts[number] += 1;
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_micros(50) {
                    std::hint::spin_loop(); // so that many die here
                }
                tally.total += 1;
            })
            .unwrap();
        for _ in 0..random.below(4) {
            let job_is_whole = |first: &mut Slot<Job>| first.get().map_or(true, |job| job.check == !job.number);
            let removed = board.jobs.lock(|first| {
                assert!(job_is_whole(first));
                first.remove(|job| &mut job.next)
            });
            removed.unwrap().unwrap();
        }
        board.rounds.fetch_add(1, Ordering::Relaxed);
    }
    session.detach().unwrap();
}

#[test]
fn workers_and_daemons_that_are_killed_lose_and_leave_nothing() {
    let seconds = env::var("GOALLOC_TEST_SECONDS").map_or(3, |text| text.parse().unwrap());
    let mut daemon = Daemon::start("storm");
    let session = daemon.attach();
    let before = session.stats().unwrap().live_objects;
    let board = session.find_or_insert("board", new_board).unwrap();
    let mut random = Random::new();
    let mut workers: Vec<_> = (0..WORKERS).map(|i| start_worker(&daemon, "storm", &i.to_string())).collect();
    let (mut kills, mut daemons) = (0, 0);
    let end = Instant::now() + Duration::from_secs(seconds);

    while Instant::now() < end {
        thread::sleep(Duration::from_millis(5 + random.below(30)));
        if random.below(12) == 0 {
            daemon.replace();
            daemons += 1;
        }
        let i = random.below(WORKERS as u64) as usize;
        workers[i].kill().unwrap();
        let status = wait_for(&mut workers[i]);
        assert_eq!(status.signal(), Some(9), "a worker has failed: {:?}", status);
        kills += 1;
        workers[i] = start_worker(&daemon, "storm", &i.to_string());
    }
    board.stop.store(true, Ordering::Relaxed);
    for one in &mut workers {
        assert!(wait_for(one).success());
    }

    let tally = board.tally.lock(|tally| (tally.total, tally.parts.iter().sum(), tally.repairs)).unwrap();
    let rounds = board.rounds.load(Ordering::Relaxed);
    println!("{} kills, {} daemons, {} rounds, {} repairs", kills, daemons, rounds, tally.2);
    assert_eq!(tally.0, tally.1);
    assert!(kills > 0 && rounds > 0 && tally.2 > 0);

    // What the list has is what lives, beside the board; what the dead had not linked yet goes with their sessions.
    let listed = board.jobs.lock(count).unwrap();
    wait_until_live(&session, before + 1 + listed);
    let mut removed = 0;
    while board.jobs.lock(|first| first.remove(|job| &mut job.next)).unwrap().unwrap() {
        removed += 1;
    }
    assert_eq!(removed, listed);
    wait_until_live(&session, before + 1);
    drop(session);
    daemon.stop();
}

fn count(first: &mut Slot<Job>) -> u64 {
    let mut n = 0;
    let mut at = &*first;
    while let Some(job) = at.get() {
        assert_eq!(job.check, !job.number);
        n += 1;
        at = &job.next;
    }
    n
}

fn wait_until_live(session: &Session, expected: u64) {
    let end = Instant::now() + LONG;
    loop {
        let live = session.stats().unwrap().live_objects;
        if live == expected {
            return;
        }
        assert!(Instant::now() < end, "{} objects live, and not {}", live, expected);
        thread::sleep(Duration::from_millis(20));
    }
}

extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(status: i32) -> !;
}

/// A child drops what it has inherited, which must leave it to its parent, and then has a session of its own.
fn fork_and_look() {
    let session = attach();
    let owned = session.alloc(7u64).unwrap();
    let slice = session.alloc_slice(&[1u64, 2]).unwrap();
    let mutex = session.find_or_insert("mutex", || Mutex::new(1u64)).unwrap().shared();
    // SAFETY: the child keeps to what Builder::attach() says, and ends by _exit().
    let pid = unsafe { fork() };
    if pid == 0 {
        let good = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            drop((owned, slice));
            mutex.lock(|number| *number += 1).unwrap();
            drop(session.alloc(8u64).unwrap()); // its own, which is freed
            let twice = unsafe { Session::attach() }.unwrap_err();
            assert!(matches!(twice, Error::Attach { errno: 114, .. }));
            // SAFETY: nothing here uses it afterwards; the compiler thinks of the parent's values, too.
            drop(unsafe { std::ptr::read(&session) });
            let again = attach();
            assert_eq!(again.find::<Mutex<u64>>("mutex").unwrap().unwrap().lock(|number| *number), Ok(2));
        }));
        unsafe { _exit(if good.is_ok() { 0 } else { 1 }) };
    }
    let mut status = -1;
    unsafe { waitpid(pid, &mut status, 0) };
    assert_eq!(status, 0);
    assert_eq!((*owned, &*slice), (7, &[1, 2][..]));
    assert_eq!(mutex.lock(|number| *number), Ok(2));
    drop((owned, slice)); // would end the process if the child had freed them
    session.detach().unwrap();
}

#[test]
fn a_forked_child_leaves_to_its_parent_what_is_owned() {
    let daemon = Daemon::start("fork");
    let session = daemon.attach();
    let before = session.stats().unwrap().live_objects;
    assert!(wait_for(&mut start_worker(&daemon, "fork", "")).success());
    wait_until_live(&session, before + 1); // the mutex
    drop(session);
    daemon.stop();
}
