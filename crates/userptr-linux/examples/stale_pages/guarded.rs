//! The same through `userptr`: an object for each buffer, a lease for each request.

use super::io::{Cache, Part, Range, Way};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};
use userptr::platforms::std::{Std, Workers};
use userptr::{Context, Error, Queues, Ref, UserPtr, UserPtrRef};
use userptr_linux::uring::{self, Direction, Op, Setup, Uring};
use userptr_linux::{Linux, Options};

/// How long one request is tried for, over all windows and graces.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Guarded {
    // Dropped in this order: objects, context, address space, and the threads that serve them last.
    objects: HashMap<Range, UserPtrRef<Uring>>,
    context: Ref<Context<Uring>, Std>,
    space: Linux,
    _workers: [Workers<Std>; 3],
}

impl Guarded {
    pub(crate) fn open(options: Options) -> Result<Self, String> {
        let space = Linux::with(options).map_err(|why| why.to_string())?;
        let ring = Uring::open(Setup::default()).map_err(|why| why.to_string())?;
        let start = |name, n| Workers::<Std>::start(name, n).map_err(|why| why.to_string());
        let workers = [start("pins", 1)?, start("cancels", 2)?, start("frees", 1)?];
        let [pins, cancels, frees] = workers.each_ref().map(|workers| workers.queue().clone());
        let queues = Queues { pins, cancels: Some(cancels), frees };
        let context = Context::try_new(ring, queues).map_err(|(_, why)| why.to_string())?;
        Ok(Self { objects: HashMap::new(), context, space, _workers: workers })
    }

    fn object(&mut self, buffer: Range) -> Result<&UserPtrRef<Uring>, Error> {
        if !self.objects.contains_key(&buffer) {
            let object = Context::create(&self.context, &self.space, buffer.address, buffer.bytes, 0)?;
            self.objects.insert(buffer, object);
        }
        self.objects.get(&buffer).ok_or(Error::NoEntry)
    }
}

fn failed(error: Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

impl Cache for Guarded {
    fn run(&mut self, buffer: Range, part: Part, way: Way, file: &File) -> io::Result<usize> {
        let refusal = |context: &Context<Uring>, error: Error| match context.device().refusal() {
            Some(why) if error == Error::Limit => io::Error::other(why),
            _ => failed(error),
        };
        let context = self.context.clone();
        let object = self.object(buffer).map_err(failed)?.clone();

        let (direction, deadline) = (
            match way {
                Way::ToFile => Direction::ToFile,
                Way::FromFile => Direction::FromFile,
            },
            Instant::now() + PATIENCE,
        );
        let part = uring::Part { offset: part.offset, bytes: part.bytes, at: 0 };
        loop {
            match UserPtr::acquire(&object) {
                Ok(lease) => match Uring::start(&lease, direction, part, file).and_then(Op::wait) {
                    // Revoked between the lease and the request.
                    Err(why) if why.raw_os_error() == Some(libc::ECANCELED) && Instant::now() < deadline => {}
                    done => return done,
                },
                Err(Error::Busy | Error::Again) if Instant::now() < deadline => {}
                Err(error) => {
                    // Nothing tells of new memory at an address that was empty: look again next time.
                    UserPtr::reset(&object);
                    return Err(refusal(&context, error));
                }
            }
        }
    }

    fn forget(&mut self) {
        self.objects.clear();
    }
}
