//! The table of `src/docs/told.md`, row by row against the running kernel.
//!
//! Each change is made twice. Once beside a bare userfaultfd that is not read, to see whether the
//! kernel tells of it, and whether the pages are still there then. And once under an object that
//! has its pages, to see what the next look-up finds.

mod changes;
mod ground;

use crate::child::scenario;
use crate::stack::Stack;
use crate::stale::io::{Part, Range, content, memfd};
use crate::stale::memory;
use changes::ROWS;
use ground::{Ground, Kind};
use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use userptr::{AddrRange, Error};
use userptr_linux::Options;
use userptr_linux::uffd::{Events, Probe, Uffd};
use userptr_linux::uring::{self, Uring};

const PAGE: usize = 4096;
const DEADLINE: Duration = Duration::from_secs(10);

/// When the kernel tells of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// The pages are still there.
    Before,
    /// They are gone.
    After,
    No,
}

/// What the next look-up finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LookUp {
    /// The pages that are at the address.
    Fresh,
    /// No lease: a part of the range is not mapped.
    Refused,
    /// A lease on pages that are not at the address any more.
    Stale,
}

/// A way to change memory.
struct Row {
    name: &'static str,
    kind: Kind,
    told: Told,
    look_up: LookUp,
    /// Errors that say that this kernel has no such call.
    lacks: &'static [i32],
    change: fn(&Ground) -> io::Result<()>,
}

/// Whether a thread of this process sleeps so that only a fatal signal wakes it.
fn is_blocked(thread: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D'))
}

/// When a bare userfaultfd is told.
fn told(row: &Row) -> io::Result<Told> {
    let ground = Ground::new(row.kind)?;
    let old = ground.content().unwrap();
    let uffd = Uffd::open().unwrap();
    let range = AddrRange::new(ground.range.address, ground.range.bytes).unwrap();
    uffd.register_whole(range).unwrap();
    let (tell, thread) = mpsc::channel();
    std::thread::scope(|scope| {
        let ground = &ground;
        let changer = scope.spawn(move || {
            // SAFETY: takes no pointer.
            tell.send(unsafe { libc::gettid() }).unwrap();
            (row.change)(ground)
        });
        let thread = thread.recv().unwrap();
        let (began, mut told, mut events) = (Instant::now(), Told::No, Events::new());
        while !changer.is_finished() {
            if uffd.probe() == Probe::Changing && is_blocked(thread) {
                if told == Told::No {
                    told = if ground.content() == Some(old.clone()) { Told::Before } else { Told::After };
                }
                uffd.read(&mut events);
            }
            assert!(began.elapsed() < DEADLINE, "{}: does not return", row.name);
            std::thread::yield_now();
        }
        changer.join().unwrap().map(|()| told)
    })
}

/// What the next look-up finds, with new content at the address where it can be written.
fn look_up(row: &Row) -> io::Result<LookUp> {
    let ground = Ground::new(row.kind)?;
    let Range { address, bytes } = ground.range;
    let stack = Stack::new(Options::default());
    let object = stack.object(address, bytes);
    drop(crate::stack::lease(&object));
    (row.change)(&ground)?;
    ground.write(&memory::pattern(bytes, 2));
    let began = Instant::now();
    let lease = loop {
        match object.acquire() {
            Ok(lease) => break lease,
            Err(Error::Again | Error::Busy) if began.elapsed() < DEADLINE => {}
            Err(Error::Fault) => return Ok(LookUp::Refused),
            Err(error) => panic!("{}: {error}", row.name),
        }
    };
    let file = memfd()?;
    assert_eq!(Uring::write(&lease, uring::Part { offset: 0, bytes, at: 0 }, &file)?, bytes);
    let fresh = ground.content().is_some_and(|there| there == content(&file, bytes).unwrap());
    Ok(if fresh { LookUp::Fresh } else { LookUp::Stale })
}

/// Runs one row. Whether the table is right; `None`: this kernel lacks the call.
fn check(row: &Row) -> Option<bool> {
    let lacks = |why: &io::Error| row.lacks.contains(&why.raw_os_error().unwrap_or(0));
    let got = match (told(row), look_up(row)) {
        (Ok(told), Ok(look_up)) => (told, look_up),
        (Err(why), _) | (_, Err(why)) if lacks(&why) => {
            println!("skipped: {}: {why}", row.name);
            return None;
        }
        (Err(why), _) | (_, Err(why)) => panic!("{}: {why}", row.name),
    };
    let right = got == (row.told, row.look_up);
    let mark = if right { "" } else { ": NOT WHAT THE TABLE SAYS" };
    println!("{:<40} told: {:?}, next look-up: {:?}{mark}", row.name, got.0, got.1);
    Some(right)
}

scenario!(s150_every_change_is_told_as_the_table_says, 120, {
    // In a thread of its own, whose heap is made of mappings: one of the changes moves the end of
    // the main thread's.
    let run = || {
        let space = userptr_linux::Linux::open().unwrap();
        let files = space.stats().files;
        drop(space);
        let (mut right, mut wrong) = (0, 0);
        for row in ROWS {
            if !files && row.kind.is_file() {
                println!("skipped: {}: mappings of files are not watched", row.name);
                continue;
            }
            match check(row) {
                Some(true) => right += 1,
                Some(false) => wrong += 1,
                None => {}
            }
        }
        assert_eq!(wrong, 0, "rows are not as the table says");
        assert!(right >= 12, "only {right} rows could be tried");
    };
    std::thread::spawn(run).join().unwrap();
});

scenario!(
    /// Nothing tells that the mapping is another one now: later changes are not told either.
    s150_remap_file_pages_ends_the_watch,
    30,
    {
        let row = ROWS.iter().find(|row| row.name == "`remap_file_pages`").unwrap();
        let stack = Stack::new(Options::default());
        if !stack.space.stats().files {
            println!("skipped: mappings of files are not watched");
            return;
        }
        let ground = Ground::new(row.kind).unwrap();
        let object = stack.object(ground.range.address, ground.range.bytes);
        drop(crate::stack::lease(&object));
        (row.change)(&ground).unwrap();
        let before = stack.space.stats().unmaps;
        memory::map_over(ground.range).unwrap();
        let stats = stack.space.stats();
        assert_eq!((stats.unmaps - before, stats.watched), (0, 1));
        // To look after the object by hand is what is left.
        object.put_pages().unwrap();
        ground.write(&memory::pattern(ground.range.bytes, 3));
        let file = memfd().unwrap();
        let part = uring::Part { offset: 0, bytes: ground.range.bytes, at: 0 };
        Uring::write(&crate::stack::lease(&object), part, &file).unwrap();
        assert_eq!(Some(content(&file, ground.range.bytes).unwrap()), ground.content());
    }
);

#[test]
fn the_table_in_the_documentation_has_these_rows() {
    let page = include_str!("../../src/docs/told.md");
    let documented: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 3)
        .skip(1)
        .map(|line| line.trim_matches(['|', ' ']).split(" | ").map(str::trim).take(3).collect())
        .collect();
    let tested: Vec<Vec<&str>> = ROWS
        .iter()
        .map(|row| {
            let told = match row.told {
                Told::Before => "before",
                Told::After => "after",
                Told::No => "**no**",
            };
            let look_up = match row.look_up {
                LookUp::Fresh => "the pages that are there",
                LookUp::Refused => "refused",
                LookUp::Stale => "**stale**",
            };
            vec![row.name, told, look_up]
        })
        .collect();
    assert_eq!(documented, tested);
}

/// The whole of a range.
fn whole(range: Range) -> Part {
    Part { offset: 0, bytes: range.bytes }
}
