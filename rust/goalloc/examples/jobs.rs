//! A list of jobs that processes add to and take from, and any of them may be killed at any instruction.
//!
//!     jobs add NUMBER     adds so many jobs
//!     jobs work           takes jobs until there are none; prints how many it has done
//!     jobs show           prints how many there are
//!
//! The list is made of slots: a job is in it and stays, or it is not there; it is taken out and freed, or it is there
//! still. How many there are is a word beside it, which a worker that dies may not have changed yet: so it is counted
//! again by who has the lock next.
use std::env;
use std::process::exit;

use goalloc::{Mutex, Repair, Session, Slot};

goalloc::shareable! {
    struct Job as "example.jobs.job.1" {
        next: Slot<Job>,
        number: u64,
    }
}

goalloc::shareable! {
    struct Jobs as "example.jobs.1" {
        first: Slot<Job>,
        there: u64,
    }
}

impl Jobs {
    fn count(&self) -> u64 {
        let mut n = 0;
        let mut at = &self.first;
        while let Some(job) = at.get() {
            n += 1;
            at = &job.next;
        }
        n
    }
}

impl Repair for Jobs {
    /// The list itself is whole; what follows from it is counted again.
    fn repair(&mut self) {
        self.there = self.count();
    }
}

fn add(session: &Session, jobs: &Mutex<Jobs>, n: u64) -> goalloc::Result<()> {
    for number in 0..n {
        let job = session.alloc(Job { next: Slot::empty(), number })?; // before the lock: it may wait for the daemon
        jobs.lock(|jobs| {
            jobs.first.insert(job, |job| &mut job.next)?;
            jobs.there += 1;
            Ok(())
        })??;
    }
    Ok(())
}

fn work(jobs: &Mutex<Jobs>) -> goalloc::Result<u64> {
    let mut done = 0;
    while jobs.lock(|jobs| {
        let taken = jobs.first.remove(|job| &mut job.next)?;
        jobs.there -= u64::from(taken);
        Ok(taken)
    })?? {
        done += 1;
    }
    Ok(done)
}

fn run(arguments: &[String]) -> goalloc::Result<()> {
    // SAFETY: all programs that attach to this heap are ours.
    let session = unsafe { Session::builder().label("jobs").reclaim().wait().attach()? };
    let jobs = session.find_or_insert("example.jobs", || Mutex::new(Jobs { first: Slot::empty(), there: 0 }))?;
    match (arguments[0].as_str(), arguments.get(1).and_then(|text| text.parse().ok())) {
        ("add", Some(n)) => add(&session, &jobs, n)?,
        ("work", None) => println!("{} done", work(&jobs)?),
        ("show", None) => println!("{} there", jobs.lock(|jobs| jobs.there)?),
        _ => usage(),
    }
    Ok(())
}

fn usage() -> ! {
    eprintln!("usage: jobs add NUMBER | jobs work | jobs show");
    exit(2);
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.is_empty() {
        usage();
    }
    if let Err(error) = run(&arguments) {
        eprintln!("jobs: {}", error);
        exit(1);
    }
}
