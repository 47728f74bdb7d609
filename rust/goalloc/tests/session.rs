//! session: what one process does with the heap: the attach, owned and shared objects, roots, mutexes, slots, events,
//! and what each of them says of what it can't do.
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use std::{mem, thread};

use goalloc::{type_tag, Error, Event, Link, Mutex, Owned, Repair, Session, Shareable, Slot};

mod common;
use common::Daemon;

goalloc::shareable! {
    #[zeroable]
    struct Node as "test.node" {
        next: Link<Node>,
        value: u64,
    }
}

goalloc::shareable! {
    struct Job as "test.job" {
        next: Slot<Job>,
        number: u64,
    }
}

goalloc::shareable! {
    struct Pair as "test.pair" {
        left: u64,
        right: u64,
    }
}

impl Repair for Pair {
    fn repair(&mut self) {
        self.right = self.left;
    }
}

static DROPPED: AtomicUsize = AtomicUsize::new(0);

goalloc::shareable! {
    struct Loud as "test.loud" {
        panics: bool,
    }
}

impl Drop for Loud {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics, "as it was told");
    }
}

fn live(session: &Session) -> u64 {
    session.stats().unwrap().live_objects
}

#[test]
fn attach_without_a_daemon_says_what_is_missing() {
    let _turn = common::turn();
    // SAFETY: there is no heap.
    let error = unsafe { Session::builder().socket("/nowhere/socket").attach() }.unwrap_err();
    assert!(matches!(error, Error::Attach { errno: 2, .. }), "{:?}", error);
    assert!(error.to_string().contains("/nowhere/socket"), "{}", error);
    let error: Box<dyn std::error::Error> = error.into();
    assert!(error.source().is_none());
    let zero = unsafe { Session::builder().socket("a\0b").attach() }.unwrap_err();
    assert_eq!(zero, Error::BadName);
}

#[test]
fn attach_is_refused_twice_and_works_after_a_detach() {
    let daemon = Daemon::start("twice");
    let session = daemon.attach();
    let heap = session.heap_id();
    let second = unsafe { daemon.builder().attach() }.unwrap_err();
    assert_eq!(second.errno(), 114);
    session.find_or_insert("number", || 7u64).unwrap();
    session.set_label("another").unwrap();
    session.detach().unwrap();

    let session = daemon.attach();
    assert_eq!(session.heap_id(), heap);
    assert!(session.is_current());
    assert_eq!(*session.find::<u64>("number").unwrap().unwrap(), 7);
    assert!(goalloc::version().starts_with("1."));
    drop(session);
    daemon.stop();
}

#[test]
fn owned_values_are_freed_when_they_are_dropped() {
    let daemon = Daemon::start("owned");
    let session = daemon.attach();
    let before = live(&session);

    let mut pair = session.alloc(Pair { left: 1, right: 2 }).unwrap();
    pair.left = 3;
    let number = session.alloc(4u64).unwrap();
    assert_eq!((pair.left, pair.right, *number), (3, 2, 4));
    assert_eq!(live(&session), before + 2);
    drop(pair);
    assert_eq!(number.into_inner(), 4);
    assert_eq!(live(&session), before);

    let at = DROPPED.load(Ordering::SeqCst);
    drop(session.alloc(Loud { panics: false }).unwrap());
    let loud = session.alloc(Loud { panics: true }).unwrap();
    catch_unwind(AssertUnwindSafe(|| drop(loud))).unwrap_err();
    let inner = session.alloc(Loud { panics: false }).unwrap().into_inner();
    assert_eq!(DROPPED.load(Ordering::SeqCst), at + 2);
    drop(inner);
    assert_eq!(DROPPED.load(Ordering::SeqCst), at + 3);
    assert_eq!(live(&session), before);

    // By another thread, as well.
    let number = session.alloc(5u64).unwrap();
    thread::scope(|scope| scope.spawn(move || drop(number)).join().unwrap());
    assert_eq!(live(&session), before);
    drop(session);
    daemon.stop();
}

#[test]
fn slices_are_as_they_were_made_and_grow() {
    let daemon = Daemon::start("slices");
    let session = daemon.attach();
    let before = live(&session);

    let squares = session.alloc_slice_with(100, |i| (i * i) as u64).unwrap();
    assert!(squares.iter().enumerate().all(|(i, &one)| one == (i * i) as u64));
    let mut text = session.alloc_slice(b"one").unwrap();
    for _ in 0..10_000 {
        text.extend_from_slice(b", two").unwrap();
    }
    assert_eq!(text.len(), 3 + 50_000);
    assert!(text.ends_with(b", two, two") && text.starts_with(b"one, two"));
    let mut none: Owned<[u64]> = session.alloc_slice(&[]).unwrap();
    none.extend_from_slice(&[1, 2]).unwrap();
    assert_eq!(&*none, &[1, 2]);
    let zeroes = session.alloc_slice_zeroed::<[AtomicU64; 8]>(1000).unwrap();
    assert!(zeroes.iter().flatten().all(|one| one.load(Ordering::Relaxed) == 0));
    assert_eq!(session.alloc_slice_zeroed::<u64>(usize::MAX).unwrap_err(), Error::OutOfMemory);
    let table = session.alloc_zeroed::<[[u64; 1024]; 1024]>().unwrap(); // 8 MiB
    assert_eq!(table[1023][1023], 0);
    drop((squares, text, none, zeroes, table));
    assert_eq!(live(&session), before);

    let at = DROPPED.load(Ordering::SeqCst);
    let make = |i| if i < 3 { Loud { panics: false } } else { panic!("as it was told") };
    catch_unwind(AssertUnwindSafe(|| session.alloc_slice_with(5, make).map(drop))).unwrap_err();
    assert_eq!(DROPPED.load(Ordering::SeqCst), at + 3);
    assert_eq!(live(&session), before);
    drop(session);
    daemon.stop();
}

#[test]
fn values_are_aligned_as_their_types() {
    #[repr(C, align(64))]
    struct Line([u8; 64]);
    // SAFETY: bytes.
    unsafe impl Shareable for Line {
        const HAS_POINTERS: bool = false;
    }
    #[repr(C, align(32))]
    struct Nothing;
    // SAFETY: nothing.
    unsafe impl Shareable for Nothing {
        const HAS_POINTERS: bool = false;
    }
    fn aligned<T: Shareable>(session: &Session, make: impl Fn() -> T) {
        let all: Vec<_> = (0..50).map(|_| session.alloc(make()).unwrap()).collect();
        let slices: Vec<_> = (0..50).map(|n| session.alloc_slice_with(n, |_| make()).unwrap()).collect();
        for p in all.iter().map(|one| &**one as *const T).chain(slices.iter().map(|one| one.as_ptr())) {
            assert_eq!(p as usize % mem::align_of::<T>(), 0, "{}", std::any::type_name::<T>());
        }
    }
    let daemon = Daemon::start("aligned");
    let session = daemon.attach();
    aligned(&session, || 1u8);
    aligned(&session, || [1u8; 3]);
    aligned(&session, || 1u16);
    aligned(&session, || [1u32; 3]);
    aligned(&session, || [1u64; 3]);
    aligned(&session, || 1u128);
    aligned(&session, || ());
    aligned(&session, || Nothing);
    aligned(&session, || Line([0; 64]));
    aligned(&session, Slot::<Job>::empty);
    assert_eq!(session.find_or_insert("line", || Line([0; 64])).err().unwrap().errno(), 22);
    drop(session);
    daemon.stop();
}

#[test]
fn roots_are_made_once_and_have_a_type() {
    let daemon = Daemon::start("roots");
    let session = daemon.attach();
    let before = live(&session);

    assert!(session.find::<u64>("number").unwrap().is_none());
    let made = session.find_or_insert("number", || AtomicU64::new(1)).unwrap();
    let found = session.find_or_insert("number", || -> AtomicU64 { unreachable!() }).unwrap();
    assert!(made.is_new() && !found.is_new());
    made.store(2, Ordering::Relaxed);
    assert_eq!(found.load(Ordering::Relaxed), 2);
    assert_eq!(made.shared().as_ptr(), found.shared().as_ptr());

    assert_eq!(session.find::<u64>("number").err(), Some(Error::WrongType));
    assert_eq!(session.find::<[AtomicU64; 1]>("number").err(), Some(Error::WrongType));
    assert_eq!(session.find_or_insert("number", || 1u64).err(), Some(Error::WrongType));
    assert_eq!(session.find_slice::<AtomicU64>("number", 1).err(), Some(Error::WrongType));
    let slice = session.find_or_insert_slice("slice", 3, |i| i as u32).unwrap();
    assert_eq!(&*slice, &[0, 1, 2]);
    assert_eq!(session.find_slice::<u32>("slice", 4).err(), Some(Error::WrongType));
    assert_eq!(&*session.find_slice::<u32>("slice", 3).unwrap().unwrap(), &[0, 1, 2]);
    let table = session.find_or_insert_zeroed::<[[AtomicU64; 512]; 512]>("table").unwrap();
    assert_eq!(table[511][511].load(Ordering::Relaxed), 0);

    // One that is not made is not there, and the next one makes it.
    let panicked = catch_unwind(AssertUnwindSafe(|| session.find_or_insert("late", || -> u64 { panic!("told to") })));
    assert_eq!(*panicked.err().unwrap().downcast::<&str>().unwrap(), "told to");
    assert!(session.find_or_insert("late", || 1u64).unwrap().is_new());
    let nested = session.find_or_insert("nested", || {
        assert_eq!(session.find_or_insert("nested", || 1u64).err(), Some(Error::Deadlock));
        2u64
    });
    assert_eq!(*nested.unwrap(), 2);
    assert_eq!(*session.wait_for::<u64>("nested", Duration::from_secs(9)).unwrap(), 2);
    assert_eq!(session.wait_for::<u64>("never", Duration::ZERO).err(), Some(Error::TimedOut));

    let mut names: Vec<_> = session.roots("").unwrap().into_iter().map(|one| one.name).collect();
    names.sort();
    assert_eq!(names, ["late", "nested", "number", "slice", "table"]);
    let info = session.roots("num").unwrap().remove(0);
    assert_eq!((info.size, info.type_tag), (8, type_tag::<AtomicU64>()));
    assert_eq!(info.offset, made.shared().offset());
    // SAFETY: it was made of that.
    assert_eq!(unsafe { session.at::<AtomicU64>(info.offset) }.unwrap().load(Ordering::Relaxed), 2);

    for name in ["", "a\0b", &"n".repeat(256)] {
        assert_eq!(session.find_or_insert(name, || 1u64).err(), Some(Error::BadName));
        assert_eq!(session.find::<u64>(name).err(), Some(Error::BadName));
    }
    assert!(session.remove("number").unwrap());
    assert!(!session.remove("number").unwrap());
    assert_eq!(found.load(Ordering::Relaxed), 2); // the object is there still
    assert_eq!(live(&session), before + 5);
    // SAFETY: nobody else knows of it.
    drop(unsafe { made.shared().into_owned() });
    assert_eq!(live(&session), before + 4);
    drop(session);
    daemon.stop();
}

#[test]
fn tags_are_the_same_numbers_for_ever() {
    // FNV-1a of the name, the size, the alignment and 0, without the top bit: computed by another program.
    assert_eq!(type_tag::<u64>(), 0x419a_3421_2995_c6b2);
    assert_eq!(type_tag::<Pair>(), 0x29d_28ed_ad8b_ec75);
    assert_ne!(type_tag::<u64>(), type_tag::<i64>());
    assert_eq!(Job::name(), "test.job");
}

#[test]
fn a_read_only_session_changes_nothing() {
    let daemon = Daemon::start("read-only");
    let session = daemon.attach();
    session.find_or_insert("number", || 7u64).unwrap();
    session.find_or_insert("mutex", || Mutex::new(Pair { left: 1, right: 1 })).unwrap();
    drop(session);

    // SAFETY: as Daemon::attach().
    let session = unsafe { daemon.builder().read_only().attach() }.unwrap();
    assert!(session.is_read_only());
    assert_eq!(*session.find::<u64>("number").unwrap().unwrap(), 7);
    assert!(session.find::<u64>("other").unwrap().is_none());
    assert_eq!(session.find_or_insert("other", || 1u64).err(), Some(Error::ReadOnly));
    assert_eq!(session.alloc(1u64).err(), Some(Error::ReadOnly));
    assert_eq!(session.remove("number").err(), Some(Error::ReadOnly));
    let mutex = session.find::<Mutex<Pair>>("mutex").unwrap().unwrap();
    assert_eq!(mutex.lock(|pair| pair.left).err(), Some(Error::ReadOnly));
    assert_eq!(Mutex::new(5u64).lock(|number| *number), Ok(5)); // in private memory
    drop(session);
    daemon.stop();
}

#[test]
fn a_mutex_is_had_by_one_and_repaired_after_a_panic() {
    let daemon = Daemon::start("mutex");
    let session = daemon.attach();
    let mutex = session.find_or_insert("mutex", || Mutex::new(Pair { left: 0, right: 0 })).unwrap();
    let mutex = mutex.shared();

    assert_eq!(mutex.lock(|_| mutex.lock(|_| ())), Ok(Err(Error::Deadlock)));
    mutex
        .lock(|_| {
            let other = thread::scope(|scope| {
                let other = scope.spawn(|| (mutex.try_lock(|_| ()), mutex.lock_for(Duration::from_millis(5), |_| ())));
                other.join().unwrap()
            });
            assert_eq!(other, (Err(Error::Busy), Err(Error::TimedOut)));
        })
        .unwrap();
    assert_eq!(mutex.lock_for(Duration::MAX, |pair| pair.left), Ok(0));

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        mutex.lock(|pair| {
            pair.left = 5;
            panic!("half done");
        })
    }));
    panicked.unwrap_err();
    assert_eq!(mutex.lock(|pair| (pair.left, pair.right)), Ok((5, 5)));

    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10_000).for_each(|_| mutex.lock(|pair| pair.left += 1).unwrap()));
        }
    });
    assert_eq!(mutex.lock(|pair| pair.left), Ok(40_005));

    let mut own = session.alloc(Mutex::new(1u64)).unwrap();
    *own.get_mut() += 1;
    assert_eq!(own.into_inner().lock(|number| *number), Ok(2));
    drop(session);
    daemon.stop();
}

#[test]
fn slots_own_what_is_inserted_until_it_is_removed() {
    let daemon = Daemon::start("slots");
    let session = daemon.attach();
    let jobs = session.find_or_insert("jobs", || Mutex::new(Slot::<Job>::empty())).unwrap();
    let before = live(&session);
    let new = |number| session.alloc(Job { next: Slot::empty(), number }).unwrap();

    for number in 0..100 {
        let job = new(number);
        jobs.lock(|first| first.insert(job, |job| &mut job.next)).unwrap().unwrap();
    }
    assert_eq!(live(&session), before + 100);
    let numbers = jobs
        .lock(|first| {
            let mut all = Vec::new();
            let mut at = &*first;
            while let Some(job) = at.get() {
                all.push(job.number);
                at = &job.next;
            }
            all
        })
        .unwrap();
    assert_eq!(numbers, (0..100).rev().collect::<Vec<_>>());

    // In the middle, too; then all that is left.
    jobs.lock(|first| {
        let third = &mut first.get_mut().unwrap().next.get_mut().unwrap().next;
        assert_eq!(third.get().unwrap().number, 97);
        assert!(third.remove(|job| &mut job.next).unwrap());
        assert_eq!(third.get().unwrap().number, 96);
    })
    .unwrap();
    assert_eq!(live(&session), before + 99);

    // A next that is another's would own what this one's does.
    let stray =
        catch_unwind(AssertUnwindSafe(|| jobs.lock(|first| first.remove(|_| Box::leak(Box::new(Slot::empty()))))));
    stray.unwrap_err();
    let job = new(100);
    let stray =
        catch_unwind(AssertUnwindSafe(|| jobs.lock(|first| first.insert(job, |_| Box::leak(Box::new(Slot::empty()))))));
    stray.unwrap_err();
    assert_eq!(live(&session), before + 99);

    let moved = jobs.lock(mem::take).unwrap();
    catch_unwind(AssertUnwindSafe(|| moved.get().map(|job| job.number))).unwrap_err();
    jobs.lock(|first| *first = moved).unwrap();
    let mut private = Slot::empty();
    assert_eq!(private.insert(new(1), |job| &mut job.next).unwrap_err().errno(), 22);
    while jobs.lock(|first| first.remove(|job| &mut job.next)).unwrap().unwrap() {}
    assert_eq!(live(&session), before);
    assert!(jobs.lock(|first| first.is_empty()).unwrap());
    drop(session);
    daemon.stop();
}

#[test]
fn links_lead_to_what_threads_have_shared() {
    let daemon = Daemon::start("links");
    let session = daemon.attach();
    let list = session.find_or_insert_zeroed::<Link<Node>>("list").unwrap();
    let push = |value| {
        let node = session.alloc(Node { next: Link::empty(), value }).unwrap().share().unwrap();
        let mut first = list.load();
        loop {
            node.next.store(first);
            match list.compare_exchange(first, Some(node)) {
                Ok(()) => break,
                Err(now) => first = now,
            }
        }
    };
    thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || (0..1000).for_each(|i| push(thread * 1000 + i)));
        }
    });
    let mut values = Vec::new();
    let mut at = list.load();
    while let Some(node) = at {
        values.push(node.value);
        at = node.get().next.load();
    }
    values.sort_unstable();
    assert!(values.into_iter().eq(0..4000));

    let private = Link::empty();
    assert!(private.load().is_none());
    private.store(list.load());
    catch_unwind(AssertUnwindSafe(|| private.load().is_some())).unwrap_err();
    drop(session);
    daemon.stop();
}

#[test]
fn what_is_shared_outlives_a_reclaiming_session_and_what_is_owned_does_not() {
    let daemon = Daemon::start("reclaim");
    let session = daemon.attach();
    let before = live(&session);
    drop(session);
    for group in [None, Some("pool")] {
        let builder = daemon.builder().reclaim();
        let builder = group.iter().fold(builder, |builder, &name| builder.group(name));
        // SAFETY: as Daemon::attach().
        let session = unsafe { builder.attach() }.unwrap();
        let shared = session.alloc([1u64, 2, 3]).unwrap().share().unwrap();
        let published = session.alloc_slice(&[4u8; 100]).unwrap();
        published.publish().unwrap();
        let (offset, published) = (shared.offset(), published.into_raw());
        mem::forget(session.alloc(4u64).unwrap());
        assert_eq!(live(&session), before + 3);
        drop(session);

        let session = daemon.attach();
        assert_eq!(live(&session), before + 2);
        // SAFETY: the number and the address are of these objects, which nobody else knows of.
        let (shared, published) = unsafe {
            let shared = session.at::<[u64; 3]>(offset).unwrap().into_owned();
            (shared, Owned::from_raw(&session, published))
        };
        assert_eq!((*shared, &*published), ([1, 2, 3], &[4u8; 100][..]));
        published.adopt().unwrap();
        drop((shared, published));
        assert_eq!(live(&session), before);
    }
    daemon.stop();
}

#[test]
fn errors_say_what_is_full_and_that_the_daemon_is_away() {
    let mut daemon = Daemon::start("errors");
    // SAFETY: as Daemon::attach().
    let session = unsafe { daemon.builder().limit(4 << 20).timeout(Duration::from_secs(2)).wait().attach() }.unwrap();
    assert_eq!(session.alloc_slice_zeroed::<u64>(1 << 20).err(), Some(Error::Limit));
    assert_eq!(session.alloc_slice_zeroed::<u64>(1 << 50).err(), Some(Error::OutOfMemory));
    let mutex = session.find_or_insert("mutex", || Mutex::new(1u64)).unwrap();
    session.trim().unwrap();

    daemon.kill();
    assert_eq!(session.find::<u64>("number").err(), Some(Error::TimedOut));
    assert_eq!(mutex.lock(|number| *number), Ok(1)); // needs nobody
    assert!(session.is_current());
    daemon.start_again();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while session.find::<Mutex<u64>>("mutex").is_err() {
        assert!(std::time::Instant::now() < end);
        thread::sleep(Duration::from_millis(10));
    }
    let error: std::io::Error = Error::TimedOut.into();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(session);
    daemon.stop();
}

#[test]
fn events_tell_of_roots() {
    let daemon = Daemon::start("events");
    let session = daemon.attach();
    let mut events = session.events().unwrap();
    assert_eq!(events.next_within(Duration::ZERO), Ok(None));
    session.find_or_insert("number", || 1u64).unwrap();
    session.remove("number").unwrap();
    let mut next = || events.next_within(Duration::from_secs(20)).unwrap().unwrap();
    assert_eq!(next(), Event::RootSet("number".to_string()));
    assert_eq!(next(), Event::RootRemoved("number".to_string()));
    drop(session);
    daemon.stop();
}

#[test]
fn a_heap_that_was_dropped_is_left_for_the_next_one() {
    let mut daemon = Daemon::start("stale");
    let session = daemon.attach();
    let heap = session.heap_id();
    let mut events = session.events().unwrap();
    let number = session.alloc(7u64).unwrap();
    let mutex = session.find_or_insert("mutex", || Mutex::new(8u64)).unwrap();
    daemon.drop_heap();

    while events.next_within(Duration::from_secs(20)).unwrap().unwrap() != Event::HeapGone {}
    assert!(!session.is_current());
    assert_eq!(session.find::<u64>("number").err(), Some(Error::Stale));
    assert_eq!((*number, mutex.lock(|number| *number)), (7, Ok(8)));
    drop(number);
    session.detach().unwrap();

    let session = daemon.attach();
    assert_ne!(session.heap_id(), heap);
    assert!(session.find::<Mutex<u64>>("mutex").unwrap().is_none());
    drop(session);
    daemon.stop();
}
