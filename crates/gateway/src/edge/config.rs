//! Settings of section `listen`.

use std::net::SocketAddr;

use ipnet::IpNet;
use ops::{Checks, Problem};
use serde::{Deserialize, Serialize};

/// Where else than on `gateway.mqtt_listen` clients come in, and which may. Section `listen`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where MQTT over TLS is spoken, for example `0.0.0.0:8883`. Default empty: nowhere.
    pub mqtts: String,
    /// Where MQTT over WebSocket is spoken (path `/mqtt`, subprotocol `mqtt`). Default empty: nowhere.
    pub ws: String,
    /// Where MQTT over WebSocket over TLS is spoken. Default empty: nowhere.
    pub wss: String,
    /// The server's certificate and its chain, PEM; read again on SIGHUP and when it changes. Needed for TLS.
    pub tls_certificate_file: String,
    /// The certificate's private key, PEM. Needed for TLS.
    pub tls_key_file: String,
    /// Certificates of the authorities that sign clients' certificates, PEM. Needed where these are asked for.
    pub tls_client_ca_file: String,
    /// Lists of revoked client certificates, PEM or DER; one that is past its next update is refused at the start. Default
    /// empty: none is revoked.
    pub tls_client_crl_file: String,
    /// Whether clients show certificates: `off`, `optional` or `required`. Default `off`.
    pub tls_client_certificates: ClientCertificates,
    /// Lowest version of TLS, `1.2` or `1.3`. Default `1.2`: modems of a few years ago know no other.
    pub tls_version_min: TlsVersion,
    /// How long a client may take for PROXY header, TLS handshake and WebSocket upgrade in all, milliseconds. Default
    /// 10,000: a full handshake over the slowest radio. Range 100 to 120,000.
    pub handshake_timeout_ms: u32,
    /// Most TLS handshakes under way at once; others wait for their turn within their time. Default 2,048: some 64 MiB while a
    /// fleet comes back. Range 1 to 100,000.
    pub handshakes_max: u32,
    /// Whether every connection begins with a PROXY protocol header (version 2): `off` or `required`. Default `off`. Behind a load
    /// balancer, limits per address need it.
    pub proxy_protocol: ProxyProtocol,
    /// Who may send that header: addresses or networks, separated by commas. Needed with `proxy_protocol`; anybody else
    /// could claim to be anybody.
    pub proxy_from: String,
    /// Most connections from one address (one network of 64 bits in IPv6). Default 10,000: carriers put thousands of
    /// devices behind one address. Range 1 to 1,000,000.
    pub connections_per_address_max: u32,
    /// New connections a second, for long; more wait in the backlog. Default 5,000: a fleet of 50,000 is back in ten
    /// seconds, and handshakes leave time for heartbeats. Range 1 to 1,000,000.
    pub connect_rate_max: u32,
    /// New connections at once before `connect_rate_max` holds. Default 20,000. Range 1 to 1,000,000.
    pub connect_burst_max: u32,
    /// Failed authentications from one address within `ban_window_s` after which it is banned. Default 1,000: many
    /// devices share an address, and one of them may be set up wrongly. Range 1 to 1,000,000.
    pub ban_after_failures: u32,
    /// The time in which failures are counted, seconds. Default 60. Range 1 to 86,400.
    pub ban_window_s: u32,
    /// How long a ban lasts, seconds. Default 60: guessing becomes hopeless, a mistake costs a minute. Range 1 to 86,400.
    pub ban_s: u32,
    /// Most addresses that are watched or banned at once. Default 10,000. Range 1 to 1,000,000.
    pub bans_max: u32,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked; one that shows none may prove who it is otherwise.
    Optional,
    /// Without one there is no connection.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// 1.2
    #[serde(rename = "1.2")]
    V12,
    /// 1.3
    #[serde(rename = "1.3")]
    V13,
}

/// Whether connections begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// They do not.
    Off,
    /// Each has to.
    Required,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mqtts: String::new(),
            ws: String::new(),
            wss: String::new(),
            tls_certificate_file: String::new(),
            tls_key_file: String::new(),
            tls_client_ca_file: String::new(),
            tls_client_crl_file: String::new(),
            tls_client_certificates: ClientCertificates::Off,
            tls_version_min: TlsVersion::V12,
            handshake_timeout_ms: 10_000,
            handshakes_max: 2_048,
            proxy_protocol: ProxyProtocol::Off,
            proxy_from: String::new(),
            connections_per_address_max: 10_000,
            connect_rate_max: 5_000,
            connect_burst_max: 20_000,
            ban_after_failures: 1_000,
            ban_window_s: 60,
            ban_s: 60,
            bans_max: 10_000,
        }
    }
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        let mut checks = Checks::of("listen");
        for (key, text) in [("mqtts", &self.mqtts), ("ws", &self.ws), ("wss", &self.wss)] {
            checks.require(
                key,
                text.is_empty() || text.parse::<SocketAddr>().is_ok(),
                format!("{text:?} is no address with a port, for example 0.0.0.0:8883"),
            );
        }
        if !self.mqtts.is_empty() || !self.wss.is_empty() {
            checks
                .present("tls_certificate_file", &self.tls_certificate_file)
                .present("tls_key_file", &self.tls_key_file);
        }
        if self.tls_client_certificates != ClientCertificates::Off {
            checks.present("tls_client_ca_file", &self.tls_client_ca_file);
        }
        if self.proxy_protocol == ProxyProtocol::Required {
            checks.present("proxy_from", &self.proxy_from);
        }
        checks
            .require(
                "proxy_from",
                networks(&self.proxy_from).is_some(),
                format!(
                    "{:?} is no list of addresses and networks, for example 10.0.0.0/8,192.0.2.1",
                    self.proxy_from
                ),
            )
            .within("handshake_timeout_ms", self.handshake_timeout_ms, 100..=120_000)
            .within("handshakes_max", self.handshakes_max, 1..=100_000)
            .within("connections_per_address_max", self.connections_per_address_max, 1..=1_000_000)
            .within("connect_rate_max", self.connect_rate_max, 1..=1_000_000)
            .within("connect_burst_max", self.connect_burst_max, 1..=1_000_000)
            .within("ban_after_failures", self.ban_after_failures, 1..=1_000_000)
            .within("ban_window_s", self.ban_window_s, 1..=86_400)
            .within("ban_s", self.ban_s, 1..=86_400)
            .within("bans_max", self.bans_max, 1..=1_000_000)
            .done()
    }
}

/// Addresses and networks of a list; `None` where one of them is neither.
pub(super) fn networks(list: &str) -> Option<Vec<IpNet>> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            entry.parse().ok().or_else(|| Some(IpNet::from(entry.parse::<std::net::IpAddr>().ok()?)))
        })
        .collect()
}
