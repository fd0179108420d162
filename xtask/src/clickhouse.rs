//! Questions to ClickHouse over plain HTTP.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use anyhow::{Context, bail};

/// Counting some million rows takes seconds on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// A ClickHouse to ask.
#[derive(Clone, Debug)]
pub(crate) struct ClickHouse {
    url: String,
}

impl ClickHouse {
    pub(crate) fn at(url: String) -> Self {
        Self { url }
    }

    /// The one value that a query answers.
    pub(crate) fn value(&self, query: &str) -> anyhow::Result<String> {
        let mut value = None;
        self.lines(query, |line| {
            value.get_or_insert_with(|| line.to_owned());
            Ok(())
        })?;
        value.with_context(|| format!("ClickHouse answered nothing to: {query}"))
    }

    /// The first column of an answer.
    pub(crate) fn column(&self, query: &str) -> anyhow::Result<Vec<String>> {
        let mut column = Vec::new();
        self.lines(query, |line| {
            column.push(line.split('\t').next().unwrap_or_default().to_owned());
            Ok(())
        })?;
        Ok(column)
    }

    /// Does something that answers nothing.
    pub(crate) fn run(&self, query: &str) -> anyhow::Result<()> {
        self.lines(query, |_| Ok(()))
    }

    /// The one number that a query answers.
    pub(crate) fn number(&self, query: &str) -> anyhow::Result<u64> {
        let value = self.value(query)?;
        value.parse().with_context(|| format!("ClickHouse answered {value:?} to: {query}"))
    }

    /// An answer whole, in the format that the query names.
    pub(crate) fn bytes(&self, query: &str) -> anyhow::Result<Vec<u8>> {
        let mut answer = self.post(&[], query.as_bytes()).with_context(|| format!("cannot ask: {query}"))?;
        let mut bytes = Vec::new();
        answer.body_mut().as_reader().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Sends data for the statement that stands in `settings` as `query`.
    pub(crate) fn send(&self, settings: &[(&str, &str)], data: &[u8]) -> anyhow::Result<()> {
        self.post(settings, data).map(drop)
    }

    /// Each line of an answer in TabSeparated, as it comes in.
    pub(crate) fn lines(
        &self,
        query: &str,
        mut each: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let asked = || format!("cannot ask: {query}");
        let mut answer = self.post(&[], query.as_bytes()).with_context(asked)?;
        for line in BufReader::new(answer.body_mut().as_reader()).lines() {
            each(&line.with_context(asked)?)?;
        }
        Ok(())
    }

    fn post(
        &self,
        settings: &[(&str, &str)],
        body: &[u8],
    ) -> anyhow::Result<ureq::http::Response<ureq::Body>> {
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .proxy(None)
                .timeout_global(Some(ANSWER_MAX))
                .http_status_as_error(false)
                .build(),
        );
        let request = settings
            .iter()
            .fold(agent.post(&self.url), |request, (name, value)| request.query(*name, *value));
        let mut answer =
            request.send(body).with_context(|| format!("ClickHouse at {} did not answer", self.url))?;
        if !answer.status().is_success() {
            let text = answer.body_mut().read_to_string().unwrap_or_default();
            bail!("ClickHouse refused ({}): {}", answer.status(), text.trim());
        }
        Ok(answer)
    }
}
