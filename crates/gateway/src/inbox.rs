//! Bytes that came in and are no whole packet yet.
//!
//! A connection that waits holds no buffer: it is read into room that all connections of a thread share, and what came
//! is copied out at its true size. Fifty thousand idle devices cost no memory for reading, and a client that announces
//! a large packet costs what it has sent, not what it has announced.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// Most bytes of one read: what a socket holds after a device drained its buffer, and a TLS record.
const SCRATCH_BYTES: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
}

/// What was read and not yet taken.
#[derive(Default)]
pub(crate) struct Inbox {
    bytes: BytesMut,
}

impl Inbox {
    /// Reads once; zero is the end of the stream. Cancel safe: nothing is taken from the stream by a dropped wait.
    pub(crate) async fn read_from<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> std::io::Result<usize> {
        poll_fn(|context| self.poll_read(Pin::new(&mut *stream), context)).await
    }

    fn poll_read<S: AsyncRead>(
        &mut self,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut room = ReadBuf::new(scratch);
            stream.poll_read(context, &mut room).map_ok(|()| {
                self.bytes.extend_from_slice(room.filled());
                room.filled().len()
            })
        })
    }

    /// What is there.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes everything out, to look at it while other things change.
    pub(crate) fn take(&mut self) -> BytesMut {
        std::mem::take(&mut self.bytes)
    }

    /// Puts back what [`Inbox::take`] gave, less what was used.
    pub(crate) fn restore(&mut self, mut bytes: BytesMut, used: usize) {
        debug_assert!(self.bytes.is_empty(), "nothing is read while packets are taken");
        if used < bytes.len() {
            bytes.advance(used);
            self.bytes = bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_inbox_holds_what_is_left_and_no_room_when_nothing_is() {
        let mut inbox = Inbox::default();
        let mut stream: &[u8] = b"abcdef";
        assert_eq!(inbox.read_from(&mut stream).await.expect("bytes"), 6);
        let taken = inbox.take();
        inbox.restore(taken, 5);
        assert_eq!(inbox.bytes(), b"f");
        let taken = inbox.take();
        inbox.restore(taken, 1);
        assert!(inbox.is_empty() && inbox.bytes.capacity() == 0);
        assert_eq!(inbox.read_from(&mut stream).await.expect("the end"), 0);
    }
}
