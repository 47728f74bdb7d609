//! steps: a process that inserts into a list and removes from it is killed after any number of instructions. Whatever
//! was done by then, the list is whole, what is in it lives, and nothing else does.
//!
//! The worker is a thread that asks to be traced (ptrace) and stops itself before and after the change; the test lets
//! it go on instruction by instruction, and kills its process. `$GOALLOC_TEST_OPS` is how often (40 times): the numbers
//! of instructions are spread over the whole of the change.
#![cfg(target_arch = "x86_64")]
use std::env;
use std::process::Child;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use goalloc::{Mutex, Session, Slot};

mod common;
use common::{start_worker, wait_for, Daemon, Random};

goalloc::shareable! {
    struct Job as "test.steps.job" {
        next: Slot<Job>,
        number: u64,
        check: u64,
    }
}

goalloc::shareable! {
    struct Board as "test.steps.board" {
        jobs: Mutex<Slot<Job>>,
        refused: AtomicU64, // 1: this process may not be traced
    }
}

extern "C" {
    fn ptrace(request: u32, ...) -> i64;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn raise(signal: i32) -> i32;
    fn kill(pid: i32, signal: i32) -> i32;
}

const PTRACE_TRACEME: u32 = 0;
const PTRACE_CONT: u32 = 7;
const PTRACE_SINGLESTEP: u32 = 9;
const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;
/// Any thread (__WALL) that is this thread's to wait for (__WNOTHREAD): other tests have children, too.
const ANY: i32 = 0x4000_0000 | 0x2000_0000;

#[test]
#[ignore]
fn worker() {
    if env::var("GOALLOC_TEST_ROLE").is_err() {
        return; // cargo test -- --ignored
    }
    let socket = env::var("GOALLOC_SOCKET").unwrap();
    // SAFETY: the heap is the test's.
    let session = unsafe { common::builder(&socket).reclaim().attach() }.unwrap();
    let board = session.wait_for::<Board>("board", Duration::from_secs(20)).unwrap();
    let new = |number: u64| session.alloc(Job { next: Slot::empty(), number, check: !number }).unwrap();
    let (first, second) = (new(1), new(2));
    board.jobs.lock(|jobs| jobs.insert(first, |job| &mut job.next)).unwrap().unwrap();
    // SAFETY: calls of the system; the test waits for this thread.
    unsafe {
        if ptrace(PTRACE_TRACEME, 0, 0u64, 0u64) != 0 {
            board.refused.store(1, std::sync::atomic::Ordering::SeqCst);
            return;
        }
        raise(SIGSTOP);
    }
    board.jobs.lock(|jobs| jobs.insert(second, |job| &mut job.next)).unwrap().unwrap();
    assert!(board.jobs.lock(|jobs| jobs.remove(|job| &mut job.next)).unwrap().unwrap());
    // SAFETY: as above.
    unsafe { raise(SIGSTOP) };
}

/// Starts a worker, waits until it stops, and gives its thread; `None`: it may not be traced.
fn start(daemon: &Daemon) -> (Child, Option<i32>) {
    let worker = start_worker(daemon, "steps", "");
    let mut status = 0;
    // SAFETY: a number to write to.
    let thread = unsafe { waitpid(-1, &mut status, ANY) };
    assert!(thread > 0);
    let stopped = status & 0xff == 0x7f && status >> 8 == SIGSTOP;
    (worker, stopped.then_some(thread))
}

/// One instruction of that thread; false: it has come to the end of the change.
fn step(thread: i32) -> bool {
    let mut status = 0;
    // SAFETY: a thread that is stopped, and this thread's to trace.
    unsafe {
        assert_eq!(ptrace(PTRACE_SINGLESTEP, thread, 0u64, 0u64), 0);
        assert_eq!(waitpid(thread, &mut status, ANY), thread);
    }
    assert_eq!(status & 0xff, 0x7f, "the worker has ended: {:#x}", status);
    status >> 8 != SIGSTOP
}

fn end(worker: &mut Child, thread: i32, signal: i32) {
    let mut status = 0;
    // SAFETY: a child that was not waited for, and its thread, which is stopped.
    unsafe {
        if signal != 0 {
            kill(worker.id() as i32, signal);
        }
        ptrace(PTRACE_CONT, thread, 0u64, 0u64);
        waitpid(thread, &mut status, ANY);
    }
    assert_eq!(wait_for(worker).success(), signal == 0);
}

fn wait_until_live(session: &Session, expected: u64) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let live = session.stats().unwrap().live_objects;
        if live == expected {
            return;
        }
        assert!(Instant::now() < end, "{} objects live, and not {}", live, expected);
        thread::sleep(Duration::from_millis(1));
    }
}

/// The jobs' numbers, which are taken out.
fn take_all(jobs: &Mutex<Slot<Job>>) -> Vec<u64> {
    let mut numbers = Vec::new();
    jobs.lock(|jobs| {
        while let Some(job) = jobs.get() {
            assert_eq!(job.check, !job.number);
            numbers.push(job.number);
            assert!(jobs.remove(|job| &mut job.next).unwrap());
        }
    })
    .unwrap();
    numbers
}

#[test]
fn a_list_is_whole_after_whatever_instruction_its_writer_dies() {
    let trials = env::var("GOALLOC_TEST_OPS").map_or(40, |text| text.parse().unwrap());
    let daemon = Daemon::start("steps");
    let session = daemon.attach();
    let make = || Board { jobs: Mutex::new(Slot::empty()), refused: AtomicU64::new(0) };
    let board = session.find_or_insert("board", make).unwrap();
    let live = session.stats().unwrap().live_objects;
    let mut random = Random::new();

    // To the end, for the number of instructions.
    let (mut worker, thread) = start(&daemon);
    let mut total = 0;
    match thread {
        None => println!("skipped: threads may not be traced here"),
        Some(thread) => {
            while step(thread) {
                total += 1;
            }
            end(&mut worker, thread, 0);
            assert_eq!(take_all(&board.jobs), [1]);
        }
    }
    let (mut both, mut one) = (0, 0);
    for trial in 0..if total > 0 { trials } else { 0 } {
        let steps = (total * trial + random.below(total)) / trials;
        let (mut worker, thread) = start(&daemon);
        let thread = thread.unwrap();
        for _ in 0..steps {
            assert!(step(thread));
        }
        end(&mut worker, thread, SIGKILL);
        match take_all(&board.jobs)[..] {
            [2, 1] => both += 1,
            [1] => one += 1,
            ref other => panic!("after {} of {} instructions: {:?}", steps, total, other),
        }
        wait_until_live(&session, live);
    }
    println!("{} instructions; killed with both in the list {} times, with one {} times", total, both, one);
    assert!(total == 0 || trials < 20 || (both > 0 && one > 0));
    drop(session);
    daemon.stop();
}
