//! The software queue: some items to one worker, then a wait until they have run. Against a
//! channel, and against the usual pool: a `VecDeque` behind a mutex, with a condition variable each
//! for "something to do" and "done".
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "a benchmark"
)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use userptr::platforms::std::{Std, Workers};
use userptr::work::enqueue;
use userptr::{RawQueue, Ref, Work, ref_counted};

/// Items between two waits.
const BATCHES: [usize; 2] = [1, 64];

struct Job {
    runs: AtomicUsize,
    work: Work<Job, Std>,
}
ref_counted! {
    impl RefCounted<Std> for Job {
        work: |job: Ref<Job, Std>| {
            job.runs.fetch_add(1, Ordering::Relaxed);
        },
    }
}

type Task = Arc<AtomicUsize>;

fn tasks(n: usize) -> Vec<Task> {
    (0..n).map(|_| Task::default()).collect()
}

/// A worker behind a channel. A message is a task, or somebody who waits for all before it.
enum Message {
    Run(Task),
    Flush(Sender<()>),
}

/// A worker behind a `VecDeque`.
#[derive(Default)]
struct Pool {
    state: Mutex<(VecDeque<Task>, bool, bool)>,
    todo: Condvar,
    done: Condvar,
}

impl Pool {
    fn start() -> (Arc<Self>, JoinHandle<()>) {
        let pool = Arc::new(Self::default());
        let worker = pool.clone();
        (pool, thread::spawn(move || worker.work()))
    }

    fn work(&self) {
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(task) = state.0.pop_front() {
                state.1 = true;
                drop(state);
                task.fetch_add(1, Ordering::Relaxed);
                state = self.state.lock().unwrap();
                state.1 = false;
                if state.0.is_empty() {
                    self.done.notify_all();
                }
            } else if state.2 {
                return;
            } else {
                state = self.todo.wait(state).unwrap();
            }
        }
    }

    fn push(&self, task: Task) {
        self.state.lock().unwrap().0.push_back(task);
        self.todo.notify_one();
    }

    fn flush(&self) {
        let state = self.state.lock().unwrap();
        drop(self.done.wait_while(state, |s| s.1 || !s.0.is_empty()).unwrap());
    }
}

fn queues(c: &mut Criterion) {
    let mut group = c.benchmark_group("enqueue_flush");
    for n in BATCHES {
        let workers = Workers::<Std>::start("bench", 1).unwrap();
        let jobs: Vec<Ref<Job, Std>> = (0..n)
            .map(|_| {
                let job = Job { runs: AtomicUsize::new(0), work: Work::uninit() };
                Ref::try_new(job).unwrap()
            })
            .collect();
        group.bench_function(BenchmarkId::new("soft_queue", n), |b| {
            b.iter(|| {
                for job in &jobs {
                    assert!(enqueue(workers.queue(), job.clone()).is_ok());
                }
                workers.queue().flush();
            });
        });

        let (send, receive) = channel();
        let worker = thread::spawn(move || {
            while let Ok(message) = receive.recv() {
                match message {
                    Message::Run(task) => drop(task.fetch_add(1, Ordering::Relaxed)),
                    Message::Flush(done) => done.send(()).unwrap(),
                }
            }
        });
        let all = tasks(n);
        group.bench_function(BenchmarkId::new("channel", n), |b| {
            b.iter(|| {
                for task in &all {
                    send.send(Message::Run(task.clone())).unwrap();
                }
                let (done, wait) = channel();
                send.send(Message::Flush(done)).unwrap();
                wait.recv().unwrap();
            });
        });
        drop(send);
        worker.join().unwrap();

        let (pool, worker) = Pool::start();
        group.bench_function(BenchmarkId::new("pool", n), |b| {
            b.iter(|| {
                for task in &all {
                    pool.push(task.clone());
                }
                pool.flush();
            });
        });
        pool.state.lock().unwrap().2 = true;
        pool.todo.notify_all();
        worker.join().unwrap();
    }
    group.finish();
}

criterion_group!(benches, queues);
criterion_main!(benches);
