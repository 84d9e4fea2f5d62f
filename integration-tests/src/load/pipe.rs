//! A connection with several requests in flight, driven by one thread that never blocks in a read or a write, so that
//! an answer is seen while a large request is still on its way out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Frames in both directions.
pub struct Pipe {
    stream: TcpStream,
    received: Vec<u8>,
    filled: usize,
    taken: usize,
}

impl Pipe {
    /// Connects to `host:port`.
    pub fn connect(address: &str) -> io::Result<Pipe> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Pipe {
            stream,
            received: vec![0; 64 << 10],
            filled: 0,
            taken: 0,
        })
    }

    /// Writes as much as the socket takes now; 0 when it takes nothing.
    pub fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(bytes) {
                Ok(written) => return Ok(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until something can be read (or written, when that is wanted), at most so long; whether it can be read.
    pub fn wait(&self, or_write: bool, timeout: Duration) -> io::Result<bool> {
        let mut flags = PollFlags::IN;
        if or_write {
            flags |= PollFlags::OUT;
        }
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.stream, flags)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => Ok(fds[0]
                .revents()
                .intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP)),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what is there. An error also when the other side closed the connection.
    pub fn read_some(&mut self) -> io::Result<()> {
        if self.taken > 0 {
            self.received.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
        }
        if self.filled == self.received.len() {
            self.received.resize(self.filled * 2, 0);
        }
        match self.stream.read(&mut self.received[self.filled..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.filled += read;
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The next whole frame of what was read, without its size.
    pub fn next_frame(&mut self) -> Option<&[u8]> {
        let rest = &self.received[self.taken..self.filled];
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let size = u32::from_be_bytes(*size) as usize;
        let frame = rest.get(..size)?;
        self.taken += 4 + size;
        Some(frame)
    }
}
