//! Bytes that came in and are no whole packet yet.
//!
//! A connection that waits holds no buffer: it is read into room that all connections of a thread share, whole packets are
//! taken where they stand, and only what is left over is copied out, at its true size. Fifty thousand idle devices cost no memory
//! for reading, and a client that announces a large packet costs what it has sent, not what it has announced.

use std::cell::Cell;
use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

/// Most bytes of one read: what a socket holds after a device drained its buffer, and a TLS record.
const SCRATCH_BYTES: usize = 16 * 1024;

thread_local! {
    /// The room of this thread, unless a connection is just using it.
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

fn borrow_scratch() -> Box<[u8]> {
    SCRATCH.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES].into_boxed_slice())
}

fn return_scratch(scratch: Box<[u8]>) {
    SCRATCH.set(Some(scratch));
}

/// What was read and not yet taken.
#[derive(Default)]
pub(crate) struct Inbox {
    kept: BytesMut,
    /// Read just now, where nothing is kept. Gone with the next look at the stream.
    fresh: Option<Fresh>,
}

struct Fresh {
    scratch: Box<[u8]>,
    len: usize,
}

/// What [`Inbox::take`] gave.
pub(crate) struct Taken(Bytes);

enum Bytes {
    Fresh(Fresh),
    Kept(BytesMut),
}

impl Deref for Taken {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Fresh(Fresh { scratch, len }) => &scratch[..*len],
            Bytes::Kept(bytes) => bytes,
        }
    }
}

impl Inbox {
    /// Reads once; zero is the end of the stream. Cancel safe: nothing is taken from the stream by a dropped wait. What
    /// came is to be taken before anything else is waited for.
    pub(crate) async fn read_from<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> std::io::Result<usize> {
        poll_fn(|context| self.poll_read(Pin::new(&mut *stream), context)).await
    }

    /// The same, polled.
    pub(crate) fn poll_read<S: AsyncRead>(
        &mut self,
        stream: Pin<&mut S>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        self.keep(0);
        let mut scratch = borrow_scratch();
        let mut room = ReadBuf::new(&mut scratch);
        let read = stream.poll_read(context, &mut room);
        let len = room.filled().len();
        if self.kept.is_empty() && len > 0 {
            self.fresh = Some(Fresh { scratch, len });
        } else {
            self.kept.extend_from_slice(&scratch[..len]);
            return_scratch(scratch);
        }
        read.map_ok(|()| len)
    }

    /// What is there.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.fresh {
            Some(Fresh { scratch, len }) => &scratch[..*len],
            None => &self.kept,
        }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.fresh.is_none() && self.kept.is_empty()
    }

    /// Takes everything out, to look at it while other things change; [`Inbox::restore`] follows before anything is waited
    /// for, so that the thread has its room again.
    pub(crate) fn take(&mut self) -> Taken {
        Taken(match self.fresh.take() {
            Some(fresh) => Bytes::Fresh(fresh),
            None => Bytes::Kept(std::mem::take(&mut self.kept)),
        })
    }

    /// Puts back what [`Inbox::take`] gave, less what was used.
    pub(crate) fn restore(&mut self, taken: Taken, used: usize) {
        debug_assert!(self.is_empty(), "nothing is read while packets are taken");
        match taken.0 {
            Bytes::Fresh(fresh) => {
                self.fresh = Some(fresh);
                self.keep(used);
            }
            Bytes::Kept(bytes) => self.restore_kept(bytes, used),
        }
    }

    /// Takes everything out in a buffer of its own: it may be held while something is waited for.
    pub(crate) fn take_kept(&mut self) -> BytesMut {
        self.keep(0);
        std::mem::take(&mut self.kept)
    }

    /// Puts back what [`Inbox::take_kept`] gave, less what was used.
    pub(crate) fn restore_kept(&mut self, mut bytes: BytesMut, used: usize) {
        if used < bytes.len() {
            bytes.advance(used);
            self.kept = bytes;
        }
    }

    /// Copies out what is fresh and beyond `used`, and gives the thread its room back.
    fn keep(&mut self, used: usize) {
        if let Some(Fresh { scratch, len }) = self.fresh.take() {
            if used < len {
                self.kept.extend_from_slice(&scratch[used..len]);
            }
            return_scratch(scratch);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

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
        assert!(inbox.is_empty() && inbox.kept.capacity() == 0);
        assert_eq!(inbox.read_from(&mut stream).await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn a_connection_that_waits_for_the_rest_of_a_packet_leaves_the_room_to_others() {
        let mut inbox = Inbox::default();
        let (mut stream, mut other) = tokio::io::duplex(16);
        other.write_all(b"abc").await.expect("room");
        assert_eq!(inbox.read_from(&mut stream).await.expect("bytes"), 3);
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), inbox.read_from(&mut stream));
        assert!(waiting.await.is_err(), "there is no more");
        assert!(inbox.fresh.is_none() && SCRATCH.take().is_some());
        assert_eq!(&*inbox.take_kept(), b"abc");
    }
}
