//! One object in the heap, that every process which runs this finds and counts in.
use std::sync::atomic::{AtomicU64, Ordering};

fn main() -> goalloc::Result<()> {
    // SAFETY: all programs that attach to this heap are ours. The socket is $GOALLOC_SOCKET.
    let session = unsafe { goalloc::Session::attach()? };
    let visits = session.find_or_insert("visits", || AtomicU64::new(0))?; // whoever is first
    println!("visit {} at {:p}", visits.fetch_add(1, Ordering::Relaxed) + 1, &*visits);
    Ok(())
}
