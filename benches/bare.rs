//! The least that a server can do for a QoS 1 publish: parse, acknowledge, keep nothing. What any gateway costs beyond this is
//! what it does beyond this. For `cargo xtask bench gateway`; no product.

use std::process::ExitCode;

use mqtt::{Packet, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PACKET_BYTES_MAX: u32 = 1 << 20;

#[tokio::main]
async fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: bare ADDRESS");
        return ExitCode::FAILURE;
    };
    let listener = match TcpListener::bind(&address).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("bare: cannot listen on {address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            // Ends with its connection, or with the process.
            drop(tokio::spawn(serve(stream)));
        }
    }
}

async fn serve(mut stream: TcpStream) {
    let _nagle = stream.set_nodelay(true);
    let (mut inbox, mut outbox, mut version) = (Vec::new(), Vec::new(), None);
    loop {
        let mut used = 0;
        while let Ok(Some(frame)) = mqtt::frame(&inbox[used..], PACKET_BYTES_MAX) {
            used += frame.len;
            match version {
                None => {
                    let Ok(connect) = mqtt::connect(&frame) else { return };
                    version = Some(connect.version);
                    mqtt::encode::connack(
                        connect.version,
                        false,
                        0,
                        &mqtt::ConnackProperties::default(),
                        &mut outbox,
                    );
                }
                Some(version) => answer(&frame, version, &mut outbox),
            }
        }
        inbox.drain(..used);
        if !outbox.is_empty() {
            if stream.write_all(&outbox).await.is_err() {
                return;
            }
            outbox.clear();
        }
        if inbox.is_empty() {
            inbox = Vec::new();
            if stream.readable().await.is_err() {
                return;
            }
            inbox.reserve(16 * 1024);
        }
        match stream.read_buf(&mut inbox).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn answer(frame: &mqtt::Frame<'_>, version: Version, outbox: &mut Vec<u8>) {
    match mqtt::packet(frame, version) {
        Ok(Packet::Publish(publish)) => {
            if let Some(packet_id) = publish.packet_id {
                mqtt::encode::puback(version, packet_id, 0, outbox);
            }
        }
        Ok(Packet::Pingreq) => mqtt::encode::pingresp(outbox),
        _ => {}
    }
}
