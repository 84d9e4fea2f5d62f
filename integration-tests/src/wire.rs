//! A small Kafka client for tests: any request at any version over a blocking socket, and raw frames.
//!
//! Used by `tests/wire`. It retries nothing, hides no error and checks each answer: the correlation id is that of
//! the request, the codec decodes the answer to its last byte, and encodes it back to the same bytes.

use std::io::{ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use crate::Broker;

/// No answer takes longer, on however loaded a machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Who the tests say they are.
const CLIENT_ID: &str = "wire-test";

/// One connection to a broker.
pub struct Wire {
    stream: TcpStream,
    client_id: &'static str,
    sent: i32,
}

/// A request that was sent, or will be, and waits for its answer.
#[must_use]
pub struct Ticket<Q> {
    correlation_id: i32,
    version: i16,
    request: PhantomData<fn() -> Q>,
}

impl Wire {
    /// Connects.
    pub fn connect(broker: &Broker) -> Wire {
        Wire::connect_as(broker, CLIENT_ID)
    }

    /// Connects under another client id.
    pub fn connect_as(broker: &Broker, client_id: &'static str) -> Wire {
        let stream = TcpStream::connect(broker.bootstrap()).expect("the broker accepts");
        stream.set_nodelay(true).expect("a socket option");
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("a socket option");
        stream
            .set_write_timeout(Some(DEADLINE))
            .expect("a socket option");
        Wire {
            stream,
            client_id,
            sent: 0,
        }
    }

    /// Sends a request and waits for its answer.
    pub fn ask<Q: Request>(&mut self, version: i16, request: &Q) -> Q::Response
    where
        Q::Response: PartialEq + std::fmt::Debug,
    {
        let ticket = self.send(version, request);
        self.receive(ticket)
    }

    /// Sends a request.
    pub fn send<Q: Request>(&mut self, version: i16, request: &Q) -> Ticket<Q> {
        let (frame, ticket) = self.frame(version, request);
        self.write(&frame);
        ticket
    }

    /// The frame of a request that is not sent yet, size included.
    pub fn frame<Q: Request>(&mut self, version: i16, request: &Q) -> (Bytes, Ticket<Q>) {
        self.sent += 1;
        let mut body = BytesMut::new();
        request
            .encode(&mut body, version)
            .unwrap_or_else(|error| panic!("{} v{version} is encoded: {error}", Q::KEY));
        let header_version = Q::header_version(version);
        let key = (Q::KEY, version);
        let frame = frame_of(self.client_id, key, self.sent, header_version, &body);
        let ticket = Ticket {
            correlation_id: self.sent,
            version,
            request: PhantomData,
        };
        (frame, ticket)
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream
            .write_all(bytes)
            .expect("the broker takes the bytes");
    }

    /// The answer to a request. Answers come in the order of requests.
    pub fn receive<Q: Request>(&mut self, ticket: Ticket<Q>) -> Q::Response
    where
        Q::Response: PartialEq + std::fmt::Debug,
    {
        let mut frame = self
            .read_frame()
            .expect("an answer, not a closed connection");
        decode::<Q::Response>(&mut frame, ticket.correlation_id, ticket.version)
    }

    /// The next frame without its size; `None` when the broker closed the connection instead.
    pub fn read_frame(&mut self) -> Option<Bytes> {
        let mut size = [0; 4];
        let mut filled = 0;
        while filled < size.len() {
            match self.stream.read(&mut size[filled..]) {
                Ok(0) => {
                    assert_eq!(filled, 0, "closed in the middle of a frame");
                    return None;
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("no answer: {error}"),
            }
        }
        let size = usize::try_from(i32::from_be_bytes(size)).expect("a size");
        let mut frame = vec![0; size];
        self.stream
            .read_exact(&mut frame)
            .expect("as many bytes as announced");
        Some(frame.into())
    }

    /// Panics unless the broker closes the connection without another byte.
    pub fn expect_close(&mut self) {
        if let Some(frame) = self.read_frame() {
            panic!("an answer of {} bytes instead of the end", frame.len());
        }
    }
}

/// A whole request frame around any body. Header version 2 ends in an empty tag section.
pub fn frame(
    key: i16,
    version: i16,
    correlation_id: i32,
    header_version: i16,
    body: &[u8],
) -> Bytes {
    frame_of(
        CLIENT_ID,
        (key, version),
        correlation_id,
        header_version,
        body,
    )
}

fn frame_of(
    client_id: &'static str,
    (key, version): (i16, i16),
    correlation_id: i32,
    header_version: i16,
    body: &[u8],
) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(key)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str(client_id)));
    let mut frame = BytesMut::zeroed(4);
    header
        .encode(&mut frame, header_version)
        .expect("a header is encoded");
    frame.extend_from_slice(body);
    let size = i32::try_from(frame.len() - 4).expect("a frame below 2 GiB");
    frame[..4].copy_from_slice(&size.to_be_bytes());
    frame.freeze()
}

/// Decodes an answer, header included, to its last byte, and encodes it back to the same bytes.
pub fn decode<R>(frame: &mut Bytes, correlation_id: i32, version: i16) -> R
where
    R: Decodable + Encodable + HeaderVersion + PartialEq + std::fmt::Debug,
{
    let header = ResponseHeader::decode(frame, R::header_version(version))
        .unwrap_or_else(|error| panic!("header at v{version}: {error}"));
    assert_eq!(header.correlation_id, correlation_id, "answers in order");
    assert!(header.unknown_tagged_fields.is_empty());
    let body = frame.clone();
    let response =
        R::decode(frame, version).unwrap_or_else(|error| panic!("answer at v{version}: {error}"));
    assert!(
        frame.is_empty(),
        "{} bytes follow {response:?}",
        frame.len()
    );
    let mut again = BytesMut::new();
    response
        .encode(&mut again, version)
        .unwrap_or_else(|error| panic!("{response:?} again at v{version}: {error}"));
    assert_eq!(again.freeze(), body, "encoded again: {response:?}");
    response
}
