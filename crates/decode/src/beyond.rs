//! What a payload holds beyond the known fields.

use std::borrow::Cow;

use event::v1::RejectReason;

use crate::Rejection;

/// The member of a payload that is made for what is not known.
pub(crate) const EXTRA: &str = "extra";

/// Members that are no fields, as they were written. Becomes `extra_json`, whose rules stand at
/// [`heartbeat`](crate::heartbeat).
#[derive(Default)]
pub(crate) struct Beyond<'de> {
    members: Vec<Member<'de>>,
}

/// Sorted by group, then by name: what stood at the top comes first.
struct Member<'de> {
    /// The object it stood in: empty at the top, [`EXTRA`], or a group of fields.
    group: &'static str,
    name: Cow<'de, str>,
    /// JSON, without white space around it.
    value: &'de str,
}

impl Member<'_> {
    fn key(&self) -> (&str, &str) {
        (self.group, &self.name)
    }
}

impl<'de> Beyond<'de> {
    pub(crate) fn push(&mut self, group: &'static str, name: Cow<'de, str>, value: &'de str) {
        self.members.push(Member { group, name, value });
    }

    /// One JSON object, or an empty text. At most as long as the payload: every byte of it stood there.
    ///
    /// # Errors
    /// Where a name stands twice in one object.
    pub(crate) fn into_json(mut self) -> Result<String, Rejection> {
        if self.members.is_empty() {
            return Ok(String::new());
        }
        // Devices write the same members in the same order, often this one.
        if self.members.array_windows().all(|[a, b]| a.key() < b.key()) {
            return Ok(self.render());
        }
        self.members.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        if let Some([twice, _]) = self.members.array_windows().find(|[a, b]| a.key() == b.key()) {
            let (group, name) = twice.key();
            let place = if group.is_empty() { "the payload" } else { group };
            return Err(Rejection::new(
                RejectReason::NotJson,
                format_args!("{name:?} stands twice in {place}"),
            ));
        }
        Ok(self.render())
    }

    fn render(&self) -> String {
        let top = &self.members[..self.members.partition_point(|member| member.group.is_empty())];
        let groups = || self.members[top.len()..].chunk_by(|a, b| a.group == b.group);
        let taken = |name: &str| {
            name == EXTRA
                || top.binary_search_by(|member| (*member.name).cmp(name)).is_ok()
                || groups().any(|group| group[0].group == name)
        };

        let bytes = |member: &Member<'_>| member.name.len() + member.value.len() + 4;
        let mut json = String::with_capacity(2 + self.members.iter().map(bytes).sum::<usize>());
        json.push('{');
        write_members(&mut json, top);
        for group in groups() {
            if group[0].group == EXTRA {
                write_members(&mut json, group.iter().filter(|member| !taken(&member.name)));
                write_group(&mut json, EXTRA, group.iter().filter(|member| taken(&member.name)));
            } else {
                write_group(&mut json, group[0].group, group);
            }
        }
        json.push('}');
        json
    }
}

fn write_group<'a>(json: &mut String, name: &str, members: impl IntoIterator<Item = &'a Member<'a>>) {
    let mut members = members.into_iter().peekable();
    if members.peek().is_some() {
        separate(json);
        json.extend(["\"", name, "\":{"]);
        write_members(json, members);
        json.push('}');
    }
}

fn write_members<'a>(json: &mut String, members: impl IntoIterator<Item = &'a Member<'a>>) {
    for Member { name, value, .. } in members {
        separate(json);
        match name {
            // Written without escapes, so it needs none.
            Cow::Borrowed(name) => json.extend(["\"", name, "\""]),
            Cow::Owned(name) => json.push_str(&serde_json::Value::from(name.as_str()).to_string()),
        }
        json.extend([":", value]);
    }
}

fn separate(json: &mut String) {
    if !json.ends_with('{') {
        json.push(',');
    }
}
