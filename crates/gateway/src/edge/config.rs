//! Settings of section `listen`: where clients come in beside plain MQTT, and what a connection may cost before MQTT.

use std::net::SocketAddr;

use ops::{Checks, Problem};
use serde::{Deserialize, Serialize};

use super::proxy::Networks;

/// How connections come in. Section `listen`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where MQTT over TLS is spoken, for example `0.0.0.0:8883`. Default empty: nowhere.
    pub mqtts: String,
    /// Where MQTT over WebSocket is spoken, path `/mqtt`, for example `0.0.0.0:8083`. Default empty: nowhere.
    pub ws: String,
    /// Where MQTT over WebSocket over TLS is spoken, path `/mqtt`, for example `0.0.0.0:8084`. Default empty: nowhere.
    pub wss: String,
    /// File with our certificate and its intermediates, PEM, ours first. Default empty; needed for TLS.
    pub tls_certificate_file: String,
    /// File with the certificate's private key, PEM. Default empty; needed for TLS.
    pub tls_key_file: String,
    /// File with the authorities that issue clients' certificates, PEM. Default empty; needed where clients are asked
    /// for one.
    pub tls_client_ca_file: String,
    /// File with the authorities' revocation lists, PEM, one list for each authority that issues to clients. Default
    /// empty: nothing is revoked.
    pub tls_client_crl_file: String,
    /// Whether TLS clients are asked for a certificate: `off`, `optional` (who has none comes in without) or
    /// `required`. Default `off`.
    pub tls_client_certificates: ClientCertificates,
    /// Oldest TLS version that is spoken: `1.2` or `1.3`. Default `1.2`: modems in the field know no newer one.
    pub tls_version_min: TlsVersion,
    /// How often the TLS files are looked at for a change, seconds. Default 60: a revoked certificate is refused within
    /// a minute. Range 1 to 86,400.
    pub tls_reload_s: u32,
    /// How long a client may take from its TCP connection to where MQTT starts, milliseconds: PROXY header, TLS and
    /// WebSocket upgrade together. Default 10,000: four round trips of the slowest radio. Range 100 to 120,000.
    pub handshake_timeout_ms: u32,
    /// Most TLS handshakes at once; others wait for their turn within their time. Default 2,048: some 64 MiB. Range
    /// 1 to 100,000.
    pub handshakes_max: u32,
    /// Whether each connection must start with a PROXY protocol header of version 2: `off` or `required`. Default
    /// `off`.
    pub proxy_protocol: ProxyProtocol,
    /// Who may speak the PROXY protocol: addresses and networks such as `10.0.0.0/8`, separated by commas. Default
    /// empty; needed with `proxy_protocol`, as who may send the header may be whoever he likes.
    pub proxy_from: String,
    /// Most connections of one address (IPv6: one /64 network). Default 20,000: a carrier has thousands of devices
    /// behind one address; still no single address takes all places of a large node. Range 1 to 1,000,000.
    pub connections_per_address_max: u32,
    /// Most new connections a second, on the whole node; those above are closed. Default 10,000: a fleet of 50,000
    /// is back within seconds. Range 1 to 1,000,000.
    pub connect_rate_per_s_max: u32,
    /// How many connections may come at once above the rate. Default 20,000: two seconds of it. Range 1 to 1,000,000.
    pub connect_burst_max: u32,
    /// Failed authentications of one address (IPv6: one /64 network) within `ban_window_s` before it is banned; 0 bans
    /// nobody. Default 1,000: some broken devices behind a carrier's address stay below, guessing does not. Range 0 to
    /// 1,000,000.
    pub ban_after_failures: u32,
    /// Over how long failures are counted, seconds. Default 60. Range 1 to 86,400.
    pub ban_window_s: u32,
    /// How long a ban lasts, seconds. Default 60: makes guessing useless, locks a carrier's devices out for a minute
    /// only. Range 1 to 604,800.
    pub ban_s: u32,
    /// Most addresses that are counted or banned; past it, those that would be forgotten first are. Default 10,000:
    /// some 2 MB. Range 1 to 1,000,000.
    pub bans_max: u32,
    /// Connections that the system holds ready for us, per listener. Default 4,096: a storm of half a second; the
    /// system's own bound (`net.core.somaxconn`) holds too. Range 16 to 65,535.
    pub accept_backlog: u32,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked; who has none comes in without.
    Optional,
    /// Who has none does not come in.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// Whether connections start with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// They do not.
    Off,
    /// They must.
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
            tls_version_min: TlsVersion::V1_2,
            tls_reload_s: 60,
            handshake_timeout_ms: 10_000,
            handshakes_max: 2_048,
            proxy_protocol: ProxyProtocol::Off,
            proxy_from: String::new(),
            connections_per_address_max: 20_000,
            connect_rate_per_s_max: 10_000,
            connect_burst_max: 20_000,
            ban_after_failures: 1_000,
            ban_window_s: 60,
            ban_s: 60,
            bans_max: 10_000,
            accept_backlog: 4_096,
        }
    }
}

impl Config {
    /// Checks the values. Files are read when the gateway starts.
    pub fn validate(&self) -> Vec<Problem> {
        const ADDRESS: &str = "is no address such as 0.0.0.0:8883; empty for none";
        const NEEDED: &str = "is empty: TLS needs it";
        let address = |text: &str| text.is_empty() || text.parse::<SocketAddr>().is_ok();
        let asks = self.tls_client_certificates != ClientCertificates::Off;
        let networks = self.proxy_from.parse::<Networks>();
        let proxied = self.proxy_protocol == ProxyProtocol::Required;
        Checks::of("listen")
            .require("mqtts", address(&self.mqtts), ADDRESS)
            .require("ws", address(&self.ws), ADDRESS)
            .require("wss", address(&self.wss), ADDRESS)
            .require("tls_certificate_file", !self.has_tls() || !self.tls_certificate_file.is_empty(), NEEDED)
            .require("tls_key_file", !self.has_tls() || !self.tls_key_file.is_empty(), NEEDED)
            .require(
                "tls_client_ca_file",
                !asks || !self.tls_client_ca_file.is_empty(),
                "is empty: clients' certificates cannot be verified without it",
            )
            .require(
                "tls_client_crl_file",
                asks || self.tls_client_crl_file.is_empty(),
                "has no effect while `tls_client_certificates` is \"off\"",
            )
            .within("tls_reload_s", self.tls_reload_s, 1..=86_400)
            .within("handshake_timeout_ms", self.handshake_timeout_ms, 100..=120_000)
            .within("handshakes_max", self.handshakes_max, 1..=100_000)
            .require(
                "proxy_from",
                networks.is_ok(),
                networks.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            )
            .require(
                "proxy_from",
                !proxied || !self.proxy_from.trim().is_empty(),
                "is empty: say which proxies are believed",
            )
            .within("connections_per_address_max", self.connections_per_address_max, 1..=1_000_000)
            .within("connect_rate_per_s_max", self.connect_rate_per_s_max, 1..=1_000_000)
            .within("connect_burst_max", self.connect_burst_max, 1..=1_000_000)
            .within("ban_after_failures", self.ban_after_failures, 0..=1_000_000)
            .within("ban_window_s", self.ban_window_s, 1..=86_400)
            .within("ban_s", self.ban_s, 1..=604_800)
            .within("bans_max", self.bans_max, 1..=1_000_000)
            .within("accept_backlog", self.accept_backlog, 16..=65_535)
            .done()
    }

    /// Whether any listener speaks TLS.
    pub(super) fn has_tls(&self) -> bool {
        !self.mqtts.is_empty() || !self.wss.is_empty()
    }
}
