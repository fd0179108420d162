//! Stand-in.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
/// x
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// x
    pub chain: Vec<String>,
}
impl Config {
    /// x
    pub fn validate(&self) -> Vec<ops::Problem> {
        Vec::new()
    }
}
/// x
#[derive(Clone, Debug)]
pub struct Access;
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// x
    Publish,
    /// x
    Subscribe,
}
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// x
    Device,
    /// x
    Service,
}
/// x
#[derive(Clone, Debug)]
pub struct Principal {
    /// x
    pub kind: Kind,
    /// x
    pub name: Arc<str>,
    /// x
    pub fleet: Option<Arc<str>>,
}
/// x
#[derive(Clone, Debug)]
pub struct Grant {
    /// x
    pub principal: Principal,
    /// x
    pub expires_at: Option<SystemTime>,
}
/// x
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    /// x
    pub client_id: &'a str,
    /// x
    pub username: Option<&'a str>,
    /// x
    pub password: Option<&'a [u8]>,
    /// x
    pub certificate: Option<&'a [u8]>,
    /// x
    pub peer: IpAddr,
}
/// x
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// x
    #[error("client id")]
    ClientId,
    /// x
    #[error("busy")]
    Busy,
    /// x
    #[error("unavailable")]
    Unavailable,
    /// x
    #[error("wrong")]
    Wrong,
}
impl Denied {
    /// x
    pub fn reason(&self) -> &'static str {
        "denied"
    }
    /// x
    pub fn is_credentials(&self) -> bool {
        matches!(self, Self::Wrong)
    }
}
impl Access {
    /// x
    /// # Errors
    /// x
    pub fn open(_config: &Config) -> Result<Self, std::io::Error> {
        Ok(Self)
    }
    /// x
    /// # Errors
    /// x
    pub async fn authenticate(&self, c: Credentials<'_>) -> Result<Grant, Denied> {
        std::future::ready(()).await;
        Ok(Grant {
            principal: Principal { kind: Kind::Device, name: c.client_id.into(), fleet: None },
            expires_at: None,
        })
    }
    /// x
    pub fn allows(&self, _p: &Principal, a: Action, topic: &str) -> bool {
        !(a == Action::Publish && topic.starts_with('$'))
    }
    /// x
    pub fn generation(&self) -> u64 {
        0
    }
    /// x
    pub fn still_valid(&self, _g: &Grant) -> bool {
        true
    }
}
