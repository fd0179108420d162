//! Stand-in.
use crate::record::Record;
use crate::session::Session;
use event::DeviceId;
pub(crate) struct Downlink;
pub(crate) struct Target<'a> {
    pub device_id: &'a str,
    pub name: &'a str,
}
pub(crate) fn target(_topic: &str) -> Option<Target<'_>> {
    None
}
#[derive(Debug, thiserror::Error)]
#[error("no")]
pub(crate) struct IssueError;
impl IssueError {
    pub(crate) fn reason_code(&self) -> u8 {
        0x97
    }
}
impl Downlink {
    pub(crate) fn record(
        &self,
        _t: &Target<'_>,
        _p: &mqtt::Publish<'_>,
        _by: &str,
    ) -> Result<Record, IssueError> {
        Err(IssueError)
    }
    pub(crate) fn sent(&self, _tag: u128, _s: &Session) {}
    pub(crate) fn acknowledged(&self, _tag: u128, _code: u8, _s: &Session) {}
    pub(crate) fn offer_pending(&self, _d: &DeviceId, _b: &broker::Broker) {}
}
