//! A connection that asks and waits: for topics, offsets and records. Producing uses [`super::pipe`].
//!
//! The memory of an answer is used again for the next one: fresh pages for each megabyte would cost the generator more
//! than what it measures. It begins at a certain place in a page: some processors copy several times more slowly to a place
//! that lies a few bytes behind the source, in whatever pages the two are, which would be chance.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::ResponseHeader;
use kafka_protocol::protocol::{Decodable, HeaderVersion, Request};

use super::failed;
use crate::wire::frame;

/// No answer takes longer, on however loaded a machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// More than any answer asked for here.
const MAX_ANSWER: usize = 256 << 20;

/// Where answers begin in a page of memory; sockets have them from the beginning of one on.
const IN_PAGE: usize = 2 << 10;
const PAGE: usize = 4 << 10;

/// One connection.
pub struct Client {
    stream: TcpStream,
    sent: i32,
    buffer: BytesMut,
}

impl Client {
    /// Connects to `host:port`.
    pub fn connect(address: &str) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Client {
            stream,
            sent: 0,
            buffer: BytesMut::new(),
        })
    }

    /// Sends a request and waits for its answer.
    pub fn ask<Q: Request>(&mut self, version: i16, request: &Q) -> io::Result<Q::Response> {
        self.ask_with(version, request, Ok)
    }

    /// The same, for answers that hold slices of the received bytes: `use_answer` drops them all.
    pub fn ask_with<Q: Request, T>(
        &mut self,
        version: i16,
        request: &Q,
        use_answer: impl FnOnce(Q::Response) -> io::Result<T>,
    ) -> io::Result<T> {
        self.sent = self.sent.wrapping_add(1);
        let mut body = BytesMut::new();
        request
            .encode(&mut body, version)
            .map_err(|error| failed(format!("request {} v{version}: {error}", Q::KEY)))?;
        let header_version = Q::header_version(version);
        let bytes = frame(Q::KEY, version, self.sent, header_version, &body);
        self.stream.write_all(&bytes)?;

        let whole = self.read_frame()?;
        let mut answer = whole.0.slice(whole.1.clone());
        let header_version = Q::Response::header_version(version);
        let header = ResponseHeader::decode(&mut answer, header_version)
            .map_err(|error| failed(format!("answer header {} v{version}: {error}", Q::KEY)))?;
        if header.correlation_id != self.sent {
            return Err(failed(format!("an answer out of order: {header:?}")));
        }
        let response = Q::Response::decode(&mut answer, version)
            .map_err(|error| failed(format!("answer {} v{version}: {error}", Q::KEY)))?;
        if answer.has_remaining() {
            return Err(failed(format!("answer {} v{version} is too long", Q::KEY)));
        }
        drop(answer);
        let result = use_answer(response);
        // A slice that is still held costs fresh memory next time, nothing else.
        self.buffer = whole.0.try_into_mut().unwrap_or_default();
        result
    }

    /// The next frame in a reused buffer, and where it lies there.
    fn read_frame(&mut self) -> io::Result<(Bytes, Range<usize>)> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        let size = u32::from_be_bytes(size) as usize;
        if size > MAX_ANSWER {
            return Err(failed(format!("an answer of {size} bytes")));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.len() < size + PAGE {
            buffer.resize(size + PAGE, 0);
        }
        let begin = (IN_PAGE.wrapping_sub(buffer.as_ptr().addr())) % PAGE;
        let place = begin..begin + size;
        self.stream.read_exact(&mut buffer[place.clone()])?;
        Ok((buffer.freeze(), place))
    }
}
