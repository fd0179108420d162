//! Reading a JSON object into a message of the event: each known field by its rule, all others kept aside.
//!
//! serde's derive cannot do this: `flatten` buffers every value, and an error does not name its field.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use event::v1::RejectReason;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::Rejection;
use crate::beyond::{Beyond, EXTRA};
use crate::rule::{Fault, Rule, Scalar};
use crate::scan::Scan;

/// Most levels of objects and arrays in an unknown value. What reads `extra_json` later may well recurse; 64 is what
/// the strictest of the common parsers allows.
pub const NESTING_LEVELS_MAX: usize = 64;

/// A message with a list of fields: see [`object!`].
pub(crate) trait Object: Default + PartialEq {
    /// The careful way: reads anything, or says what is wrong with it.
    fn read<'de, A: MapAccess<'de>>(map: A, context: &mut Context<'de>) -> Result<Self, A::Error>;

    /// The quick way, into a message that is empty: see [`scan`](crate::scan).
    fn scan(&mut self, scan: &mut Scan<'_>) -> Option<()>;
}

/// Implements [`Object`] for a message: `"name in the payload" => field: rule,` for each of its fields.
macro_rules! object {
    ($message:ty { $($name:literal => $field:ident: $rule:expr,)* }) => {
        impl $crate::object::Object for $message {
            fn read<'de, A: serde::de::MapAccess<'de>>(
                mut map: A,
                context: &mut $crate::object::Context<'de>,
            ) -> Result<Self, A::Error> {
                let mut message = Self::default();
                // Whether the field stood already.
                $(let mut $field = false;)*
                while let Some(name) = map.next_key_seed($crate::object::Name)? {
                    match &*name {
                        $($name => {
                            context.enter($name, &mut $field)?;
                            let seed = $crate::object::Field { rule: $rule, context: &mut *context };
                            message.$field = map.next_value_seed(seed)?;
                        })*
                        _ => context.keep(name, &mut map)?,
                    }
                }
                Ok(message)
            }

            fn scan(&mut self, scan: &mut $crate::scan::Scan<'_>) -> Option<()> {
                $(let mut $field = false;)*
                let mut more = scan.reader.open()?;
                while more {
                    match scan.reader.name()? {
                        $($name => {
                            if std::mem::replace(&mut $field, true) {
                                return None;
                            }
                            scan.field($name, $rule, &mut self.$field)?;
                        })*
                        name => scan.keep(name)?,
                    }
                    more = scan.reader.another()?;
                }
                Some(())
            }
        }
    };
}
pub(crate) use object;

/// Reads one payload.
pub(crate) fn read<T: Object>(text: &str) -> Result<(T, Beyond<'_>), Rejection> {
    let mut context = Context::default();
    let mut parser = serde_json::Deserializer::from_str(text);
    let root = Root { context: &mut context, message: PhantomData };
    match root.deserialize(&mut parser).and_then(|message| parser.end().map(|()| message)) {
        Ok(message) => Ok((message, context.beyond)),
        Err(error) => Err(context.rejection(text, &error)),
    }
}

/// Where in the payload the parser is, what it kept aside, and what went wrong.
#[derive(Default)]
pub(crate) struct Context<'de> {
    /// The group being read; empty at the top.
    group: &'static str,
    /// The known field being read; empty at an unknown one.
    field: &'static str,
    extra_stood: bool,
    beyond: Beyond<'de>,
    /// What a rule found. The parser's error cannot carry it.
    fault: Option<Fault>,
}

impl<'de> Context<'de> {
    /// Comes to a known field.
    pub(crate) fn enter<E: de::Error>(&mut self, field: &'static str, stood: &mut bool) -> Result<(), E> {
        self.field = field;
        if std::mem::replace(stood, true) {
            return Err(self.fail(Fault { reason: RejectReason::NotJson, what: "stands twice".into() }));
        }
        Ok(())
    }

    /// Keeps an unknown member aside, or the members of the payload's own `extra`.
    pub(crate) fn keep<A: MapAccess<'de>>(
        &mut self,
        name: Cow<'de, str>,
        map: &mut A,
    ) -> Result<(), A::Error> {
        if self.group.is_empty() && name == EXTRA {
            let mut stood = std::mem::replace(&mut self.extra_stood, true);
            self.enter(EXTRA, &mut stood)?;
            return map.next_value_seed(Field { rule: Extra, context: self }).map(|_| ());
        }
        self.field = "";
        let value: &'de RawValue = map.next_value()?;
        if nests_too_deep(value.get()) {
            let what = format_args!("the value of {name:?} nests deeper than {NESTING_LEVELS_MAX} levels");
            return Err(self.fail(Fault::out_of_range(what)));
        }
        self.beyond.push(self.group, name, value.get());
        Ok(())
    }

    #[cold]
    fn fail<E: de::Error>(&mut self, fault: Fault) -> E {
        self.fault = Some(fault);
        E::custom("rejected")
    }

    /// Says why `text` was not read to its end. The whole text is looked at again, so that what is no JSON is never
    /// called a bad field.
    #[cold]
    fn rejection(self, text: &str, error: &serde_json::Error) -> Rejection {
        if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
            return Rejection::new(RejectReason::NotJson, error);
        }
        if !text.trim_ascii_start().starts_with('{') {
            return Rejection::new(RejectReason::NotAnObject, error);
        }
        let reason = match &self.fault {
            Some(fault) => fault.reason,
            None if error.is_data() => RejectReason::WrongType,
            // JSON by its grammar, but it stands for nothing: 1e999, or half of a surrogate pair.
            None => RejectReason::OutOfRange,
        };
        let what: &dyn fmt::Display = match &self.fault {
            Some(fault) => &fault.what,
            None => error,
        };
        match (self.group, self.field) {
            ("", "") => Rejection::new(reason, what),
            (path, "") | ("", path) => Rejection::new(reason, format_args!("{path}: {what}")),
            (group, field) => Rejection::new(reason, format_args!("{group}.{field}: {what}")),
        }
    }
}

/// Whether objects and arrays in `json`, which is one, stand more than [`NESTING_LEVELS_MAX`] deep.
fn nests_too_deep(json: &str) -> bool {
    if !json.starts_with(['{', '[']) {
        return false;
    }
    let (mut levels, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                levels += 1;
                if levels > NESTING_LEVELS_MAX {
                    return true;
                }
            }
            b'}' | b']' if !in_text => levels -= 1,
            _ => {}
        }
    }
    false
}

/// The whole payload.
struct Root<'c, 'de, T> {
    context: &'c mut Context<'de>,
    message: PhantomData<T>,
}

impl<'de, T: Object> DeserializeSeed<'de> for Root<'_, 'de, T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Object> Visitor<'de> for Root<'_, 'de, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::read(map, self.context)
    }
}

/// The name of a member; borrowed where it was written without escapes.
pub(crate) struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// The value of a known field; `None` for `null`.
pub(crate) struct Field<'c, 'de, R> {
    pub(crate) rule: R,
    pub(crate) context: &'c mut Context<'de>,
}

impl<R: Rule> Field<'_, '_, R> {
    fn settle<E: de::Error>(self, scalar: Scalar<'_>) -> Result<Option<R::Value>, E> {
        self.rule.scalar(scalar).map(Some).map_err(|fault| self.context.fail(fault))
    }
}

impl<'de, R: Rule> DeserializeSeed<'de> for Field<'_, 'de, R> {
    type Value = Option<R::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, R: Rule> Visitor<'de> for Field<'_, 'de, R> {
    type Value = Option<R::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(R::EXPECTED)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Self::Value, E> {
        self.settle(Scalar::Flag(flag))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        self.settle(Scalar::Unsigned(number))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        self.settle(Scalar::Negative(number))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        self.settle(Scalar::Real(number))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        self.settle(Scalar::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        self.rule.object(map, self.context)
    }
}

/// An object within the payload; absent where no field of it has a value.
pub(crate) fn group<T>() -> Group<T> {
    Group(PhantomData)
}

pub(crate) struct Group<T>(PhantomData<T>);

impl<T: Object> Rule for Group<T> {
    type Value = T;
    const EXPECTED: &'static str = "an object";

    fn scalar(self, scalar: Scalar<'_>) -> Result<T, Fault> {
        Err(Fault::wrong_type(scalar, Self::EXPECTED))
    }

    fn object<'de, A: MapAccess<'de>>(
        self,
        map: A,
        context: &mut Context<'de>,
    ) -> Result<Option<T>, A::Error> {
        context.group = context.field;
        let message = T::read(map, context)?;
        context.group = "";
        Ok((message != T::default()).then_some(message))
    }

    #[inline]
    fn scan(self, name: &'static str, scan: &mut Scan<'_>, slot: &mut Option<T>) -> Option<()> {
        let message = slot.insert(T::default());
        scan.group(name, message)?;
        if *message == T::default() {
            *slot = None;
        }
        Some(())
    }
}

/// The payload's own `extra`: any members.
struct Extra;

impl Rule for Extra {
    type Value = ();
    const EXPECTED: &'static str = "an object";

    fn scalar(self, scalar: Scalar<'_>) -> Result<(), Fault> {
        Err(Fault::wrong_type(scalar, Self::EXPECTED))
    }

    fn object<'de, A: MapAccess<'de>>(
        self,
        mut map: A,
        context: &mut Context<'de>,
    ) -> Result<Option<()>, A::Error> {
        context.group = EXTRA;
        while let Some(name) = map.next_key_seed(Name)? {
            context.keep(name, &mut map)?;
        }
        context.group = "";
        Ok(None)
    }
}
