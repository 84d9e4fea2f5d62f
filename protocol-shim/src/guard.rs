//! The frame guard: walks a request body by its schema before the codec may decode it.
//!
//! Called for every request between header and decoder. The codec trusts the counts and lengths it reads and would
//! allocate what they say (a 4 byte Metadata body asks it for 144 GiB, which aborts the process), so a body reaches it only
//! after this walk. The guard decodes nothing, allocates nothing, and is stricter than the codec, never looser:
//!
//! - every length fits into the bytes left, every array count times its smallest element too;
//! - elements are at most [`MAX_ELEMENTS`] a request, tags at most 64 a struct and 128 KiB each;
//! - null stands only where the schema allows it, a varint has at most 5 bytes and 32 bits;
//! - a known tag ends exactly at its size: the codec reads such a value without looking at the size;
//! - accepted means: decoding takes at most 64 times the bytes of the body (see `TAG_MEMORY_FACTOR`).
//!
//! It does not check that strings are UTF-8; the codec does, without harm. The walk cannot recurse without end: the
//! layouts are constants, and a constant that contains itself does not compile.

use crate::guard_table::MESSAGES;
use crate::reader::{ReadError, Reader};

/// Most array elements of all arrays of one request together.
pub const MAX_ELEMENTS: usize = 65_536;

/// Most topics and partitions of one Produce request together.
pub const MAX_PRODUCE_ELEMENTS: usize = 20_000;

/// Share of the 64-fold limit that the maps of unknown tags may use up. An element takes at most 40 times its bytes
/// in the codec's structs (a test computes that from the layouts), and so does a tag among many; but each struct with
/// tags has a map of its own, and the first node of a map costs [`TAG_MAP_NODE`] bytes for 2 on the wire.
const TAG_MEMORY_FACTOR: usize = 24;

/// Bodies below this size may use as much for maps as one of it: three of them.
const SMALL_BODY: usize = 64;

/// A leaf of the standard library's `BTreeMap<i32, Bytes>`.
const TAG_MAP_NODE: usize = 408;

const PRODUCE: i16 = 0;

/// Checks the body of a request (what follows the header).
///
/// Returns the number of bytes after its end: Kafka ignores them, so do we, but they are worth counting. Fails for
/// every pair of key and version that is not in Kafka 4.3.1's schemas for broker listeners.
pub fn check(api_key: i16, api_version: i16, body: &[u8]) -> Result<usize, GuardError> {
    let Some(message) = find(api_key, api_version) else {
        return Err(GuardError {
            message: "request",
            field: "version",
            cause: Cause::UnknownApi,
        });
    };
    let mut reader = Reader::new(body);
    let mut walk = Walk {
        message: message.name,
        version: api_version,
        flexible: message.flexible.contains(api_version),
        elements_left: if api_key == PRODUCE {
            MAX_PRODUCE_ELEMENTS
        } else {
            MAX_ELEMENTS
        },
        tag_memory_left: body.len().max(SMALL_BODY) * TAG_MEMORY_FACTOR,
    };
    walk.fields(&mut reader, message.name, message.fields)?;
    Ok(reader.left())
}

/// Whether [`check`] has a layout for this pair.
pub fn knows(api_key: i16, api_version: i16) -> bool {
    find(api_key, api_version).is_some()
}

/// Why a body was refused, and where. The connection it came over is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{message} body refused at {field}: {cause}")]
pub struct GuardError {
    /// Kafka's name of the request.
    pub message: &'static str,
    /// The field of the schema that was being walked.
    pub field: &'static str,
    /// What is wrong with it.
    pub cause: Cause,
}

impl GuardError {
    /// A short label for metrics.
    pub fn cause(&self) -> &'static str {
        match self.cause {
            Cause::UnknownApi => "unknown_api",
            Cause::Truncated => "truncated",
            Cause::Varint => "varint",
            Cause::Null => "null",
            Cause::NegativeLength => "negative_length",
            Cause::StringTooLong => "string_too_long",
            Cause::ArrayTooLong => "array_too_long",
            Cause::TooManyElements => "too_many_elements",
            Cause::TooManyTags => "too_many_tags",
            Cause::TagTooLarge => "tag_too_large",
            Cause::TagVersion => "tag_version",
            Cause::TagSize => "tag_size",
            Cause::NullMarker => "null_marker",
        }
    }
}

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// No layout for this API key and version.
    #[error("unknown API key or version")]
    UnknownApi,
    /// A length beyond the bytes left.
    #[error("more bytes announced than left")]
    Truncated,
    /// A varint of more than 5 bytes or 32 bits.
    #[error("varint too long")]
    Varint,
    /// Null where the schema has no null.
    #[error("null where none is allowed")]
    Null,
    /// A length below -1.
    #[error("negative length")]
    NegativeLength,
    /// A string above 32,767 bytes.
    #[error("string too long")]
    StringTooLong,
    /// So many elements that even the smallest would not fit into the bytes left.
    #[error("array longer than the bytes left")]
    ArrayTooLong,
    /// More than [`MAX_ELEMENTS`] elements or [`MAX_PRODUCE_ELEMENTS`].
    #[error("too many array elements in one request")]
    TooManyElements,
    /// More than 64 tags in a struct, or tags in so many structs that decoding them would take too much memory.
    #[error("too many tags")]
    TooManyTags,
    /// A tag above 128 KiB.
    #[error("tag too large")]
    TagTooLarge,
    /// A known tag before the version that brought it.
    #[error("tag does not exist in this version")]
    TagVersion,
    /// The value of a known tag does not end where its size says.
    #[error("tag value and size differ")]
    TagSize,
    /// The byte before a nullable struct is neither -1 nor 1.
    #[error("marker of a nullable struct is neither -1 nor 1")]
    NullMarker,
}

impl From<ReadError> for Cause {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Truncated => Cause::Truncated,
            ReadError::Varint => Cause::Varint,
            ReadError::TooManyTags => Cause::TooManyTags,
            ReadError::TagTooLarge => Cause::TagTooLarge,
        }
    }
}

/// The layout of one request kind.
pub(crate) struct Message {
    pub(crate) api_key: i16,
    pub(crate) name: &'static str,
    pub(crate) versions: Versions,
    pub(crate) flexible: Versions,
    pub(crate) fields: &'static [Field],
}

/// One field of a struct.
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) versions: Versions,
    pub(crate) kind: Kind,
    pub(crate) nullable: Versions,
    /// Where the field is a tag: its number and the versions in which it is one.
    pub(crate) tag: Option<(u32, Versions)>,
}

/// The encoding of a field.
pub(crate) enum Kind {
    Bool,
    Int8,
    Int16,
    Uint16,
    Int32,
    #[allow(
        dead_code,
        reason = "part of the schema language; no request of 4.3.1 uses it"
    )]
    Uint32,
    Int64,
    Float64,
    Uuid,
    String,
    Bytes,
    Records,
    Struct(&'static [Field]),
    Array(&'static Kind),
}

/// A range of versions; empty when `first > last`.
#[derive(Clone, Copy)]
pub(crate) struct Versions {
    pub(crate) first: i16,
    pub(crate) last: i16,
}

impl Versions {
    pub(crate) fn contains(self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }
}

/// No version.
pub(crate) const NEVER: Versions = only(0, -1);

/// This version and all later ones.
pub(crate) const fn since(first: i16) -> Versions {
    Versions {
        first,
        last: i16::MAX,
    }
}

/// These versions, both ends included.
pub(crate) const fn only(first: i16, last: i16) -> Versions {
    Versions { first, last }
}

/// A field that is never null and no tag.
pub(crate) const fn field(name: &'static str, versions: Versions, kind: Kind) -> Field {
    Field {
        name,
        versions,
        kind,
        nullable: NEVER,
        tag: None,
    }
}

impl Field {
    pub(crate) const fn nullable(self, versions: Versions) -> Self {
        // No `..self`: a constant function cannot drop what it moved from.
        let Self {
            name,
            versions: present,
            kind,
            nullable: _,
            tag,
        } = self;
        Self {
            name,
            versions: present,
            kind,
            nullable: versions,
            tag,
        }
    }

    pub(crate) const fn tagged(self, tag: u32, versions: Versions) -> Self {
        let Self {
            name,
            versions: present,
            kind,
            nullable,
            tag: _,
        } = self;
        Self {
            name,
            versions: present,
            kind,
            nullable,
            tag: Some((tag, versions)),
        }
    }

    /// Whether the field stands between the others, not among the tags.
    pub(crate) fn is_inline(&self, version: i16) -> bool {
        self.versions.contains(version)
            && !self
                .tag
                .is_some_and(|(_, versions)| versions.contains(version))
    }
}

/// The layout of a request, if broker listeners know this version of it.
pub(crate) fn find(api_key: i16, api_version: i16) -> Option<&'static Message> {
    let index = MESSAGES
        .binary_search_by_key(&api_key, |message| message.api_key)
        .ok()?;
    let message = &MESSAGES[index];
    message.versions.contains(api_version).then_some(message)
}

struct Walk {
    message: &'static str,
    version: i16,
    flexible: bool,
    elements_left: usize,
    tag_memory_left: usize,
}

impl Walk {
    fn fields(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        fields: &'static [Field],
    ) -> Result<(), GuardError> {
        for field in fields {
            if field.is_inline(self.version) {
                let nullable = field.nullable.contains(self.version);
                self.value(reader, field.name, &field.kind, nullable)?;
            }
        }
        if self.flexible {
            self.tags(reader, name, fields)
        } else {
            Ok(())
        }
    }

    fn value(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        kind: &'static Kind,
        nullable: bool,
    ) -> Result<(), GuardError> {
        if let Kind::Struct(fields) = kind {
            let present = !nullable
                || self
                    .struct_marker(reader)
                    .map_err(|cause| self.refuse(name, cause))?;
            return if present {
                self.fields(reader, name, fields)
            } else {
                Ok(())
            };
        }
        let length = match kind {
            Kind::Array(_) => self.length(reader, LengthField::Int32),
            Kind::String => self.length(reader, LengthField::Int16),
            Kind::Bytes | Kind::Records => self.length(reader, LengthField::Int32),
            _ => Ok(Some(fixed_size(kind))),
        };
        let Some(length) = length.map_err(|cause| self.refuse(name, cause))? else {
            return if nullable {
                Ok(())
            } else {
                Err(self.refuse(name, Cause::Null))
            };
        };
        if let Kind::Array(element) = kind {
            return self.elements(reader, name, element, length);
        }
        if matches!(kind, Kind::String) && length > i16::MAX as usize {
            return Err(self.refuse(name, Cause::StringTooLong));
        }
        reader
            .take(length)
            .map_err(|error| self.refuse(name, error.into()))?;
        Ok(())
    }

    fn elements(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        element: &'static Kind,
        count: usize,
    ) -> Result<(), GuardError> {
        // Both factors come from outside or from the table; 2^32 times a struct's size stays far below 2^64.
        if count * self.smallest(element) > reader.left() {
            return Err(self.refuse(name, Cause::ArrayTooLong));
        }
        let Some(left) = self.elements_left.checked_sub(count) else {
            return Err(self.refuse(name, Cause::TooManyElements));
        };
        self.elements_left = left;
        for _ in 0..count {
            self.value(reader, name, element, false)?;
        }
        Ok(())
    }

    fn tags(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        fields: &'static [Field],
    ) -> Result<(), GuardError> {
        let count = reader
            .tag_count()
            .map_err(|error| self.refuse(name, error.into()))?;
        if count == 0 {
            return Ok(());
        }
        let Some(left) = self.tag_memory_left.checked_sub(TAG_MAP_NODE) else {
            return Err(self.refuse(name, Cause::TooManyTags));
        };
        self.tag_memory_left = left;
        for _ in 0..count {
            let (tag, value) = reader
                .tag()
                .map_err(|error| self.refuse(name, error.into()))?;
            let known = fields
                .iter()
                .find(|field| field.tag.is_some_and(|(number, _)| number == tag));
            if let Some(field) = known {
                self.known_tag(field, value)?;
            }
        }
        Ok(())
    }

    fn known_tag(&mut self, field: &'static Field, value: &[u8]) -> Result<(), GuardError> {
        if !field.versions.contains(self.version) || field.is_inline(self.version) {
            return Err(self.refuse(field.name, Cause::TagVersion));
        }
        let mut reader = Reader::new(value);
        let nullable = field.nullable.contains(self.version);
        self.value(&mut reader, field.name, &field.kind, nullable)?;
        if reader.left() > 0 {
            return Err(self.refuse(field.name, Cause::TagSize));
        }
        Ok(())
    }

    /// A length or count; `None` is null.
    fn length(&self, reader: &mut Reader, classic: LengthField) -> Result<Option<usize>, Cause> {
        if self.flexible {
            // Compact lengths are one more than the value, 0 is null.
            return Ok(reader
                .unsigned_varint()?
                .checked_sub(1)
                .map(|length| length as usize));
        }
        let length = match classic {
            LengthField::Int16 => i32::from(reader.i16()?),
            LengthField::Int32 => reader.i32()?,
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length)
                .map(Some)
                .map_err(|_| Cause::NegativeLength),
        }
    }

    /// The byte before a nullable struct: Kafka takes every negative one for null and every other one for a struct,
    /// the codec only 1 for a struct. Nobody writes others than these two (KIP-893).
    fn struct_marker(&self, reader: &mut Reader) -> Result<bool, Cause> {
        match reader.u8()? as i8 {
            1 => Ok(true),
            -1 => Ok(false),
            _ => Err(Cause::NullMarker),
        }
    }

    /// Fewest bytes an array element of this kind takes.
    fn smallest(&self, kind: &'static Kind) -> usize {
        smallest(kind, self.version, self.flexible)
    }

    fn refuse(&self, field: &'static str, cause: Cause) -> GuardError {
        GuardError {
            message: self.message,
            field,
            cause,
        }
    }
}

enum LengthField {
    Int16,
    Int32,
}

/// Fewest bytes a value of this kind takes when it is not nullable.
fn smallest(kind: &'static Kind, version: i16, flexible: bool) -> usize {
    match kind {
        Kind::String | Kind::Bytes | Kind::Records | Kind::Array(_) if flexible => 1,
        Kind::String => 2,
        Kind::Bytes | Kind::Records | Kind::Array(_) => 4,
        Kind::Struct(fields) => {
            let inline = fields.iter().filter(|field| field.is_inline(version));
            let sizes = inline.map(|field| match field.kind {
                Kind::Struct(_) if field.nullable.contains(version) => 1,
                _ => smallest(&field.kind, version, flexible),
            });
            sizes.sum::<usize>() + usize::from(flexible)
        }
        _ => fixed_size(kind),
    }
}

/// The size of a kind that has the same in every value; 0 for the others.
fn fixed_size(kind: &Kind) -> usize {
    match kind {
        Kind::Bool | Kind::Int8 => 1,
        Kind::Int16 | Kind::Uint16 => 2,
        Kind::Int32 | Kind::Uint32 => 4,
        Kind::Int64 | Kind::Float64 => 8,
        Kind::Uuid => 16,
        Kind::String | Kind::Bytes | Kind::Records | Kind::Struct(_) | Kind::Array(_) => 0,
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
