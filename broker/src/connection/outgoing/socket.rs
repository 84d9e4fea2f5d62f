//! What answers are written to: a TCP socket, which takes parts of files without a copy (`sendfile`). Used by `outgoing.rs`;
//! it decides nothing.

use std::io;

use ottla_storage::records::FileRecords;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::tcp::OwnedWriteHalf;

pub(in crate::connection) trait Socket: AsyncWrite + Unpin {
    /// Whether to wait with what does not fill a packet until there is more.
    fn gather(&mut self, on: bool);

    /// Waits until it takes something.
    async fn ready(&mut self) -> io::Result<()>;

    /// Sends of bytes `from..to` of `records` what the socket takes, and says how much that was.
    async fn send_file(
        &mut self,
        records: &FileRecords,
        from: usize,
        to: usize,
    ) -> io::Result<usize>;
}

impl Socket for OwnedWriteHalf {
    fn gather(&mut self, on: bool) {
        // Without it there are more packets, and nothing else differs.
        let _ = rustix::net::sockopt::set_tcp_cork(self.as_ref(), on);
    }

    async fn ready(&mut self) -> io::Result<()> {
        self.writable().await
    }

    async fn send_file(
        &mut self,
        records: &FileRecords,
        from: usize,
        to: usize,
    ) -> io::Result<usize> {
        let stream = self.as_ref();
        let mut position = records.position + from as u64;
        let send = || {
            rustix::fs::sendfile(stream, &records.file, Some(&mut position), to - from)
                .map_err(io::Error::from)
        };
        stream.async_io(Interest::WRITABLE, send).await
    }
}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {
    fn gather(&mut self, _on: bool) {}

    async fn ready(&mut self) -> io::Result<()> {
        Ok(())
    }

    async fn send_file(
        &mut self,
        records: &FileRecords,
        from: usize,
        to: usize,
    ) -> io::Result<usize> {
        let bytes = records.read()?;
        tokio::io::AsyncWriteExt::write(self, &bytes[from..to]).await
    }
}
