//! The same through `userptr`: an object for each buffer, a lease for each request.

use super::io::{Cache, Part, Range, Way};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};
use userptr::platforms::std::Running;
use userptr::{AddrRange, Context, Error, Flags, UserPtr};
use userptr_linux::uring::{self, Direction, Op, Setup, Uring};
use userptr_linux::{Linux, Options};

/// How long one request is tried for, over all windows and graces.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Guarded {
    objects: HashMap<Range, UserPtr<Uring>>,
    context: Running<Uring>,
    space: Linux,
}

impl Guarded {
    pub(crate) fn open(options: Options) -> Result<Self, Box<dyn std::error::Error>> {
        let space = Linux::with(options)?;
        let context = Context::builder(Uring::open(Setup::default())?).spawn()?;
        Ok(Self { objects: HashMap::new(), context, space })
    }

    fn object(&mut self, buffer: Range) -> Result<&UserPtr<Uring>, Error> {
        if !self.objects.contains_key(&buffer) {
            let range = AddrRange::new(buffer.address, buffer.bytes)?;
            // SAFETY: the buffers are mapped by system calls of this program, and looked at by
            // such, too.
            let object = unsafe { self.context.register_unchecked(&self.space, range, Flags::NONE) }?;
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
            Some(why) if error.errno() == Error::Limit.errno() => io::Error::other(why),
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
            match object.acquire() {
                Ok(lease) => match Uring::start(&lease, direction, part, file).and_then(Op::wait) {
                    // Revoked between the lease and the request.
                    Err(why) if why.raw_os_error() == Some(libc::ECANCELED) && Instant::now() < deadline => {}
                    done => return done,
                },
                Err(Error::Busy | Error::Again) if Instant::now() < deadline => {}
                Err(error) => {
                    // Nothing tells of new memory at an address that was empty: look again next
                    // time.
                    object.reset();
                    return Err(refusal(&context, error));
                }
            }
        }
    }

    fn forget(&mut self) {
        self.objects.clear();
    }
}
