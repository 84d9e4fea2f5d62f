//! One connection to a broker: frames, correlation, negotiated versions.
//!
//! Used by the client and by `doctor`. It holds at most one request in flight; after any failure it is of no use and
//! has to be dropped. What is no Kafka broker is told apart by the first answer. A frame's buffer grows with the
//! bytes that arrive, never with the size that is announced.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use ottla_protocol::error_code::ErrorCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout as within;

use crate::cli::failure::{Failure, Result};

/// More than any answer to our requests; what announces more does not speak Kafka.
const FRAME_MAX: usize = 256 * 1024 * 1024;
const CLIENT_ID: &str = "ottla-cli";

/// Where a broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// From `host:port`, brackets around an IPv6 address.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Failure::usage(format_args!(
                "{text:?} is not HOST:PORT: {why}; for example --bootstrap 127.0.0.1:9092"
            ))
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("no port"))?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let port = port
            .parse()
            .map_err(|_| bad("the port is no number up to 65535"))?;
        if host.is_empty() {
            return Err(bad("no host"));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// From a broker's answer.
    pub fn new(host: &str, port: i32) -> Result<Self> {
        let port = u16::try_from(port).map_err(|_| {
            Failure::refused(format_args!(
                "the cluster names a broker at {host} with port {port}, which cannot be"
            ))
        })?;
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    /// The addresses behind the name.
    pub async fn resolve(&self, timeout: Duration) -> Result<Vec<SocketAddr>> {
        let looked_up = within(timeout, lookup_host((self.host.as_str(), self.port))).await;
        let failed = |why: &dyn Display| {
            Failure::unreachable(format_args!("{self}: the name does not resolve: {why}"))
        };
        match looked_up {
            Ok(Ok(addresses)) => Ok(addresses.collect()),
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&"no answer in time")),
        }
    }

    /// An address that means this machine, whoever reads it.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || (self.host.parse()).is_ok_and(|address: IpAddr| address.is_loopback())
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A connection whose broker has told its versions.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    address: Address,
    sent: i32,
    versions: HashMap<i16, RangeInclusive<i16>>,
    closed: bool,
}

impl Connection {
    /// Connects and asks for the broker's versions.
    pub async fn open(address: &Address, timeout: Duration) -> Result<Self> {
        let connected = within(
            timeout,
            TcpStream::connect((address.host.as_str(), address.port)),
        );
        let stream = match connected.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(Failure::unreachable(format_args!(
                    "cannot connect to {address}: {error}"
                )));
            }
            Err(_) => {
                return Err(Failure::unreachable(format_args!(
                    "cannot connect to {address} within {} s",
                    timeout.as_secs_f32()
                )));
            }
        };
        // Only delays are at stake.
        let _ = stream.set_nodelay(true);
        let mut connection = Self {
            stream,
            address: address.clone(),
            sent: 0,
            versions: HashMap::new(),
            closed: false,
        };
        connection.negotiate(timeout).await?;
        Ok(connection)
    }

    /// Whom it leads to, as dialled.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The other end's address.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }

    /// Whether the other end had closed it before the last request.
    pub fn was_closed(&self) -> bool {
        self.closed
    }

    /// The versions of an API that the broker has.
    pub fn versions(&self, key: i16) -> Option<&RangeInclusive<i16>> {
        self.versions.get(&key)
    }

    /// Asks in the newest version that both sides have.
    pub async fn ask<Q: Request>(
        &mut self,
        versions: RangeInclusive<i16>,
        request: &Q,
        timeout: Duration,
    ) -> Result<Q::Response> {
        let version = self.newest(Q::KEY, &versions)?;
        let mut body = BytesMut::new();
        request.encode(&mut body, version).map_err(|error| {
            let api = api_name(Q::KEY);
            Failure::refused(format_args!("{api} v{version} cannot be sent: {error}"))
        })?;
        let header_version = Q::header_version(version);
        let mut answer = self
            .exchange(Q::KEY, version, header_version, &body, timeout)
            .await?;
        if <Q::Response as HeaderVersion>::header_version(version) >= 1 {
            skip_tags(&mut answer)
                .ok_or_else(|| self.gibberish("an answer's header is cut short"))?;
        }
        Q::Response::decode(&mut answer, version)
            .map_err(|error| self.gibberish(format!("{} v{version}: {error}", api_name(Q::KEY))))
    }

    fn newest(&self, key: i16, ours: &RangeInclusive<i16>) -> Result<i16> {
        let name = api_name(key);
        let address = &self.address;
        let Some(theirs) = self.versions.get(&key) else {
            return Err(Failure::refused(format_args!(
                "the broker at {address} does not serve {name}"
            )));
        };
        let newest = *ours.end().min(theirs.end());
        if newest < *ours.start().max(theirs.start()) {
            return Err(Failure::refused(format_args!(
                "the broker at {address} serves {name} in versions {} to {}, this command speaks {} to {}",
                theirs.start(),
                theirs.end(),
                ours.start(),
                ours.end()
            )));
        }
        Ok(newest)
    }

    async fn negotiate(&mut self, timeout: Duration) -> Result<()> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("ottla"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut version = 3;
        loop {
            let mut body = BytesMut::new();
            request
                .encode(&mut body, version)
                .map_err(|error| self.gibberish(&error))?;
            let header = ApiVersionsRequest::header_version(version);
            let mut answer = self
                .exchange(ApiVersionsRequest::KEY, version, header, &body, timeout)
                .await?;
            // An unknown version is answered in version 0.
            if version > 0
                && answer.get(..2) == Some(&ErrorCode::UnsupportedVersion.code().to_be_bytes())
            {
                version = 0;
                continue;
            }
            let response = ApiVersionsResponse::decode(&mut answer, version)
                .map_err(|error| self.gibberish(&error))?;
            if response.error_code != 0 {
                let what = format_args!("broker at {}", self.address);
                return Err(Failure::told(what, response.error_code, None));
            }
            let ranges = response.api_keys.iter();
            self.versions = ranges
                .map(|api| (api.api_key, api.min_version..=api.max_version))
                .collect();
            return Ok(());
        }
    }

    /// Sends one request and returns what follows the correlation id of its answer.
    async fn exchange(
        &mut self,
        key: i16,
        version: i16,
        header_version: i16,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Bytes> {
        self.sent = self.sent.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(key)
            .with_request_api_version(version)
            .with_correlation_id(self.sent)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header
            .encode(&mut frame, header_version)
            .map_err(|error| self.gibberish(&error))?;
        frame.extend_from_slice(body);
        let size = i32::try_from(frame.len() - 4)
            .map_err(|_| Failure::refused("a request above 2 GiB cannot be sent"))?;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        let address = &self.address;
        let mut answer = match within(timeout, swap(&mut self.stream, &frame)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(Broken::Closed)) => {
                self.closed = true;
                return Err(Failure::unreachable(format_args!(
                    "{address} closed the connection instead of answering {}; does it expect TLS or SASL there? this client speaks PLAINTEXT",
                    api_name(key)
                )));
            }
            Ok(Err(Broken::Io(error))) => {
                self.closed = true;
                return Err(Failure::unreachable(format_args!(
                    "connection to {address} was lost: {error}"
                )));
            }
            Ok(Err(Broken::Size(size))) => {
                return Err(self.gibberish(format!("a frame of {size} bytes")));
            }
            Err(_) => {
                return Err(Failure::unreachable(format_args!(
                    "{address} did not answer {} within {} s; --timeout gives it longer",
                    api_name(key),
                    timeout.as_secs_f32()
                )));
            }
        };
        if answer.len() < 4 || answer.get_i32() != self.sent {
            return Err(self.gibberish("an answer to another request"));
        }
        Ok(answer)
    }

    fn gibberish(&self, why: impl Display) -> Failure {
        Failure::unreachable(format_args!(
            "what answers at {} does not speak Kafka's protocol as we know it: {why}",
            self.address
        ))
    }
}

enum Broken {
    Closed,
    Io(io::Error),
    Size(i32),
}

async fn swap(stream: &mut TcpStream, frame: &[u8]) -> std::result::Result<Bytes, Broken> {
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => Broken::Closed,
        _ => Broken::Io(error),
    };
    stream.write_all(frame).await.map_err(broken)?;
    let size = stream.read_i32().await.map_err(broken)?;
    let wanted = usize::try_from(size).unwrap_or(usize::MAX);
    if wanted > FRAME_MAX {
        return Err(Broken::Size(size));
    }
    let mut answer = Vec::new();
    let read = stream.take(wanted as u64).read_to_end(&mut answer).await;
    if read.map_err(broken)? < wanted {
        return Err(Broken::Closed);
    }
    Ok(answer.into())
}

/// Skips the tagged fields of a response header: Kafka defines none, so that there is one byte as a rule.
fn skip_tags(answer: &mut Bytes) -> Option<()> {
    let count = varint(answer)?;
    for _ in 0..count {
        varint(answer)?;
        let size = varint(answer)? as usize;
        if size > answer.len() {
            return None;
        }
        answer.advance(size);
    }
    Some(())
}

fn varint(bytes: &mut Bytes) -> Option<u32> {
    let mut value = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = bytes.first().copied()?;
        bytes.advance(1);
        value |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// An API's name for messages.
pub fn api_name(key: i16) -> String {
    match ApiKey::try_from(key) {
        Ok(api) => format!("{api:?}"),
        Err(()) => format!("API {key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        let parsed = |text| Address::parse(text).map(|address| (address.host, address.port));
        assert_eq!(
            parsed("localhost:9092").unwrap(),
            ("localhost".to_owned(), 9092)
        );
        assert_eq!(parsed("[::1]:1").unwrap(), ("::1".to_owned(), 1));
        assert_eq!(Address::parse("[::1]:1").unwrap().to_string(), "[::1]:1");
        for wrong in ["", "host", "host:", ":9092", "host:70000", "host:x"] {
            assert_eq!(parsed(wrong).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
        for (text, loopback) in [
            ("127.0.0.1:1", true),
            ("localhost:1", true),
            ("[::1]:1", true),
            ("10.0.0.1:1", false),
            ("kafka:1", false),
        ] {
            assert_eq!(Address::parse(text).unwrap().is_loopback(), loopback);
        }
    }

    #[test]
    fn tags_of_a_header_are_skipped_and_never_trusted() {
        let skipped = |bytes: &'static [u8]| {
            let mut answer = Bytes::from_static(bytes);
            skip_tags(&mut answer).map(|()| answer)
        };
        assert_eq!(skipped(&[0, 7]).as_deref(), Some(&[7][..]));
        assert_eq!(skipped(&[1, 0, 2, 8, 8, 7]).as_deref(), Some(&[7][..]));
        for cut in [
            &[][..],
            &[1],
            &[1, 0, 2, 8],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0],
        ] {
            assert_eq!(skipped(cut), None, "{cut:?}");
        }
    }
}
