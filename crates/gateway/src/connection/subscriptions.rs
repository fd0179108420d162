//! SUBSCRIBE and UNSUBSCRIBE: each filter is answered for itself.

use access::Action as Asking;
use broker::{Options, SubscribeError};
use mqtt::{Filter, Subscribe, Unsubscribe, reason};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Connection;

impl<S> Connection<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn take_subscribe(&mut self, subscribe: &Subscribe<'_>) {
        let mut any = false;
        let codes: Vec<u8> = subscribe
            .filters()
            .map(|filter| {
                let code = self.subscribe(&filter, subscribe.subscription_id);
                any |= code < 0x80;
                // MQTT 3 has one code for every refusal. [MQTT-3.9.3-2]
                if code >= 0x80 && !self.version.is_v5() { reason::UNSPECIFIED_ERROR } else { code }
            })
            .collect();
        mqtt::encode::suback(self.version, subscribe.packet_id, &codes, &mut self.outbox);
        if any {
            self.offer_commands();
        }
    }

    /// Subscribes to one filter: the granted QoS, or why not.
    fn subscribe(&mut self, filter: &Filter<'_>, subscription_id: Option<u32>) -> u8 {
        let asked = mqtt::topic::shared(filter.filter).map_or(filter.filter, |(_, shared)| shared);
        if !self.shared.access.allows(&self.session.grant.principal, Asking::Subscribe, asked) {
            self.shared.meter.subscribe_refused("not_authorized");
            return reason::NOT_AUTHORIZED;
        }
        let options = Options {
            qos: filter.qos,
            no_local: filter.no_local,
            retain_as_published: filter.retain_as_published,
            retain_handling: filter.retain_handling,
        };
        let Ok(link) = self.link() else {
            self.shared.meter.subscribe_refused("sessions_max");
            return reason::QUOTA_EXCEEDED;
        };
        match link.subscribe(filter.filter, options, subscription_id) {
            Ok(granted) => granted.as_u8(),
            Err(error) => {
                self.shared.meter.subscribe_refused(error.reason());
                code_of(&error)
            }
        }
    }

    pub(super) fn take_unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) {
        let codes: Vec<u8> = unsubscribe
            .filters()
            .map(|filter| {
                let known = self.link.as_mut().is_some_and(|link| link.unsubscribe(filter));
                if known { reason::SUCCESS } else { reason::NO_SUBSCRIPTION_EXISTED }
            })
            .collect();
        mqtt::encode::unsuback(self.version, unsubscribe.packet_id, &codes, &mut self.outbox);
    }
}

fn code_of(error: &SubscribeError) -> u8 {
    match error {
        SubscribeError::TooMany { .. } | SubscribeError::NoRoom => reason::QUOTA_EXCEEDED,
        SubscribeError::TooDeep { .. } => reason::TOPIC_FILTER_INVALID,
        SubscribeError::Gone => reason::UNSPECIFIED_ERROR,
    }
}
