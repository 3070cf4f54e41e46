//! A line of the log as text: time, level, and what happened.
//!
//! From debug on a line also names the module it comes from, and the connection.

use std::fmt::{self, Debug, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::SENTENCE;
use crate::telemetry::clock::Clock;

/// The span of what happens to one slot of several.
const SLOT: &str = "slot";

/// Writes events as lines of text.
pub(super) struct Text {
    /// Whether each line begins with the time.
    pub(super) has_time: bool,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let style = |style: Style| {
            if writer.has_ansi_escapes() {
                style
            } else {
                Style::new()
            }
        };
        let dim = style(Style::new().dimmed());
        let level = *event.metadata().level();
        let colour = style(Style::new().fg_color(Some(colour(level).into())));
        if self.has_time {
            write!(writer, "{dim}{}{dim:#} ", time())?;
        }
        write!(writer, "{colour}{level:>5}{colour:#} ")?;
        if level <= Level::INFO {
            write_slot(ctx, &mut writer)?;
        }
        if event.metadata().target() == SENTENCE {
            let mut sentence = Sentence(String::new());
            event.record(&mut sentence);
            return writeln!(writer, "{}", sentence.0);
        }
        if level > Level::INFO {
            write_origin(ctx, &mut writer, event, dim)?;
        }
        ctx.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The slot that an event is about, where the process serves several.
fn write_slot<S, N>(ctx: &FmtContext<'_, S, N>, writer: &mut Writer<'_>) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    let mut spans = ctx.event_scope().into_iter().flatten();
    let Some(slot) = spans.find(|span| span.name() == SLOT) else {
        return Ok(());
    };
    let extensions = slot.extensions();
    let fields = extensions.get::<FormattedFields<N>>();
    // Its one field, with whatever gives it a colour.
    let fields = fields.map_or("", |fields| fields.fields.trim_end());
    let number = fields.rsplit(|c: char| !c.is_ascii_digit()).next();
    write!(writer, "slot {}: ", number.unwrap_or_default())
}

/// The spans that an event happens in, and its module.
fn write_origin<S, N>(
    ctx: &FmtContext<'_, S, N>,
    writer: &mut Writer<'_>,
    event: &Event<'_>,
    dim: Style,
) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    for span in ctx
        .event_scope()
        .into_iter()
        .flat_map(|scope| scope.from_root())
    {
        write!(writer, "{}", span.name())?;
        let extensions = span.extensions();
        if let Some(fields) = extensions.get::<FormattedFields<N>>()
            && !fields.is_empty()
        {
            write!(writer, "{{{fields}}}")?;
        }
        writer.write_str(": ")?;
    }
    write!(writer, "{dim}{}:{dim:#} ", event.metadata().target())
}

/// The time in UTC, to the second.
fn time() -> humantime::Rfc3339Timestamp {
    let wall = Duration::from_millis(Clock.wall_as_set().as_millis());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + wall)
}

fn colour(level: Level) -> AnsiColor {
    match level {
        Level::ERROR => AnsiColor::Red,
        Level::WARN => AnsiColor::Yellow,
        Level::INFO => AnsiColor::Green,
        Level::DEBUG => AnsiColor::Blue,
        Level::TRACE => AnsiColor::Magenta,
    }
}

/// The message of an event, without its fields.
struct Sentence(String);

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() != "message" {
            return;
        }
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        // A broker may have a say in it, and a terminal would obey.
        for c in text.chars() {
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
    }
}
