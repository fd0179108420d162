//! Questions to ClickHouse over plain HTTP.

use std::io::{BufRead, BufReader};
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

    /// Each line of an answer in TabSeparated, as it comes in.
    pub(crate) fn lines(
        &self,
        query: &str,
        mut each: impl FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder()
                .proxy(None)
                .timeout_global(Some(ANSWER_MAX))
                .http_status_as_error(false)
                .build(),
        );
        let asked = || format!("ClickHouse at {} did not answer: {query}", self.url);
        let mut answer = agent.post(&self.url).send(query).with_context(asked)?;
        if !answer.status().is_success() {
            let text = answer.body_mut().read_to_string().unwrap_or_default();
            bail!("ClickHouse refused ({}): {query}\n{}", answer.status(), text.trim());
        }
        for line in BufReader::new(answer.body_mut().as_reader()).lines() {
            each(&line.with_context(asked)?)?;
        }
        Ok(())
    }
}
