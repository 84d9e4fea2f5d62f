//! What answers are written to: a TCP socket, or in tests anything that is written to. Used by `outgoing.rs`, which says what
//! to write only once it is known that something will be taken; it decides nothing.

use std::io;

use rustix::net::SendFlags;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::tcp::OwnedWriteHalf;

/// Hands bytes over, and says how many of them were taken: `WouldBlock` when there is no place.
pub(super) type Send<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<usize>;

pub(in crate::connection) trait Socket: AsyncWrite + Unpin {
    /// Waits until something is taken, and has `write` send it, each time anew until it is taken or fails otherwise.
    async fn write_with(
        &mut self,
        write: impl FnMut(Send<'_>) -> io::Result<usize>,
    ) -> io::Result<usize>;
}

impl Socket for OwnedWriteHalf {
    async fn write_with(
        &mut self,
        mut write: impl FnMut(Send<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let stream = self.as_ref();
        // Without a signal where the client has gone.
        let mut send = |bytes: &[u8]| Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?);
        let write = || write(&mut send);
        stream.async_io(Interest::WRITABLE, write).await
    }
}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {
    async fn write_with(
        &mut self,
        mut write: impl FnMut(Send<'_>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        use std::pin::Pin;
        use std::task::Poll;

        std::future::poll_fn(|cx| {
            let mut send = |bytes: &[u8]| match Pin::new(&mut *self).poll_write(cx, bytes) {
                Poll::Ready(written) => written,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            };
            match write(&mut send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                written => Poll::Ready(written),
            }
        })
        .await
    }
}
