//! What lies below MQTT: TCP, or TLS over it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::DeviceTls;

#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    /// Apart, since it is far larger than a socket.
    Tls(Box<TlsStream<TcpStream>>),
}

/// How a connection was secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    None,
    Full,
    Resumed,
}

impl Stream {
    /// Does the TLS handshake. Cancel safe: a dropped attempt leaves no socket.
    pub(crate) async fn secure(stream: TcpStream, tls: &DeviceTls) -> io::Result<Self> {
        let connector = TlsConnector::from(tls.config.clone());
        let secured = connector.connect(tls.server_name.clone(), stream).await?;
        Ok(Self::Tls(Box::new(secured)))
    }

    pub(crate) fn security(&self) -> Security {
        match self {
            Self::Plain(_) => Security::None,
            Self::Tls(stream) => match stream.get_ref().1.handshake_kind() {
                Some(HandshakeKind::Resumed) => Security::Resumed,
                _ => Security::Full,
            },
        }
    }

    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, room),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, room),
        }
    }

    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    /// Hands on what TLS holds back.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }
}
