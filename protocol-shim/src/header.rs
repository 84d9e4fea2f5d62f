//! Request and response headers.
//!
//! Called for every frame before anything else is looked at. The codec's own parser panics on frames below 4 bytes and
//! refuses client ids that are not UTF-8, which Kafka accepts; hence this one. It allocates nothing: the client id is
//! a slice of the frame.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::reader::{ReadError, Reader};

/// API key, version and correlation id: what every header starts with.
pub const MIN_LEN: usize = 8;

/// The header of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which request.
    pub api_key: i16,
    /// In which version.
    pub api_version: i16,
    /// Given back in the response.
    pub correlation_id: i32,
    /// What the client calls itself: any bytes, not always UTF-8, up to 32,767 of them.
    pub client_id: Option<Bytes>,
}

/// Why a header was refused. The connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The frame ends inside the header.
    #[error("frame ends inside the request header")]
    Truncated,
    /// A client id length below -1.
    #[error("client id length {0} is negative")]
    ClientIdLength(i16),
    /// A varint of more than 5 bytes or 32 bits.
    #[error("varint in the request header too long")]
    Varint,
    /// More than 64 tags.
    #[error("too many tags in the request header")]
    TooManyTags,
    /// A tag above 128 KiB.
    #[error("tag in the request header too large")]
    TagTooLarge,
    /// Header versions are 0, 1 and 2.
    #[error("unknown request header version {0}")]
    UnknownVersion(i16),
}

impl HeaderError {
    /// A short label for metrics.
    pub fn cause(&self) -> &'static str {
        match self {
            HeaderError::Truncated => "header_truncated",
            HeaderError::ClientIdLength(_) => "header_client_id",
            HeaderError::Varint => "header_varint",
            HeaderError::TooManyTags => "header_too_many_tags",
            HeaderError::TagTooLarge => "header_tag_too_large",
            HeaderError::UnknownVersion(_) => "header_version",
        }
    }
}

impl From<ReadError> for HeaderError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Truncated => HeaderError::Truncated,
            ReadError::Varint => HeaderError::Varint,
            ReadError::TooManyTags => HeaderError::TooManyTags,
            ReadError::TagTooLarge => HeaderError::TagTooLarge,
        }
    }
}

/// API key, API version and correlation id of a frame, in this order: enough to choose the header version.
pub fn peek(frame: &[u8]) -> Result<(i16, i16, i32), HeaderError> {
    let mut reader = Reader::new(frame);
    if reader.left() < MIN_LEN {
        return Err(HeaderError::Truncated);
    }
    Ok((reader.i16()?, reader.i16()?, reader.i32()?))
}

/// Splits a frame into its header and the body.
///
/// Header version 0 has no client id, 1 has one, 2 has tags after it; the client id's length is two bytes in all of
/// them. Tags are bounded like those of a body and skipped: Kafka defines none.
pub fn parse(frame: &Bytes, header_version: i16) -> Result<(RequestHeader, Bytes), HeaderError> {
    if !(0..=2).contains(&header_version) {
        return Err(HeaderError::UnknownVersion(header_version));
    }
    let (api_key, api_version, correlation_id) = peek(frame)?;
    let mut reader = Reader::new(&frame[MIN_LEN..]);
    let mut client_id = None;
    if header_version >= 1 {
        let length = reader.i16()?;
        if length < -1 {
            return Err(HeaderError::ClientIdLength(length));
        }
        if let Ok(length) = usize::try_from(length) {
            client_id = Some(frame.slice_ref(reader.take(length)?));
        }
    }
    if header_version >= 2 {
        for _ in 0..reader.tag_count()? {
            reader.tag()?;
        }
    }
    let mut body = frame.clone();
    body.advance(frame.len() - reader.left());
    Ok((
        RequestHeader {
            api_key,
            api_version,
            correlation_id,
            client_id,
        },
        body,
    ))
}

/// Appends a response header: the correlation id, and from version 1 on an empty list of tags.
pub fn put_response_header(
    buffer: &mut BytesMut,
    correlation_id: i32,
    response_header_version: i16,
) {
    buffer.put_i32(correlation_id);
    if response_header_version >= 1 {
        buffer.put_u8(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(client_id_length: i16, rest: &[u8]) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_i16(3);
        frame.put_i16(9);
        frame.put_i32(77);
        frame.put_i16(client_id_length);
        frame.put_slice(rest);
        frame.freeze()
    }

    #[test]
    fn each_header_version_is_split_from_its_body() {
        let bytes = frame(2, b"me\x00body");
        assert_eq!(peek(&bytes), Ok((3, 9, 77)));
        let (header, body) = parse(&bytes, 2).unwrap();
        assert_eq!(
            (header.api_key, header.api_version, header.correlation_id),
            (3, 9, 77)
        );
        assert_eq!(header.client_id.as_deref(), Some(&b"me"[..]));
        assert_eq!(&body[..], b"body");
        assert_eq!(&parse(&bytes, 1).unwrap().1[..], b"\x00body");
        assert_eq!(&parse(&bytes, 0).unwrap().1[..], b"\x00\x02me\x00body");
        assert_eq!(parse(&bytes, 3), Err(HeaderError::UnknownVersion(3)));
    }

    #[test]
    fn null_and_non_utf_8_client_ids_are_accepted() {
        assert_eq!(parse(&frame(-1, b""), 1).unwrap().0.client_id, None);
        assert_eq!(
            parse(&frame(2, b"\xff\xfe"), 1)
                .unwrap()
                .0
                .client_id
                .as_deref(),
            Some(&b"\xff\xfe"[..])
        );
        let long = vec![b'x'; 32_767];
        assert_eq!(
            parse(&frame(32_767, &long), 1)
                .unwrap()
                .0
                .client_id
                .unwrap()
                .len(),
            32_767
        );
    }

    #[test]
    fn a_client_id_length_below_minus_1_or_beyond_the_frame_is_refused() {
        assert_eq!(
            parse(&frame(-2, b""), 1),
            Err(HeaderError::ClientIdLength(-2))
        );
        assert_eq!(parse(&frame(3, b"me"), 1), Err(HeaderError::Truncated));
    }

    #[test]
    fn a_header_cut_anywhere_is_refused() {
        let bytes = frame(2, b"me\x01\x05\x02ab");
        assert!(parse(&bytes, 2).unwrap().1.is_empty());
        for end in 0..bytes.len() {
            assert_eq!(
                parse(&bytes.slice(..end), 2),
                Err(HeaderError::Truncated),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn tags_of_a_header_are_bounded() {
        assert_eq!(parse(&frame(0, &[65]), 2), Err(HeaderError::TooManyTags));
        assert_eq!(
            parse(&frame(0, &[1, 0, 9, 1]), 2),
            Err(HeaderError::Truncated)
        );
        assert_eq!(
            parse(&frame(0, &[0x80, 0x80, 0x80, 0x80, 0x80, 0]), 2),
            Err(HeaderError::Varint)
        );
    }

    #[test]
    fn response_headers_carry_tags_from_version_1_on() {
        let mut buffer = BytesMut::new();
        put_response_header(&mut buffer, 77, 0);
        put_response_header(&mut buffer, -1, 1);
        assert_eq!(&buffer[..], &[0, 0, 0, 77, 255, 255, 255, 255, 0]);
    }

    #[test]
    fn random_frames_never_panic() {
        let seed = 0x4ead_e200;
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..random.usize(..40)).map(|_| random.u8(..)).collect();
            let bytes = Bytes::from(bytes);
            for header_version in 0..=2 {
                if let Ok((_, body)) = parse(&bytes, header_version) {
                    assert!(body.len() + MIN_LEN <= bytes.len());
                }
            }
        }
    }
}
