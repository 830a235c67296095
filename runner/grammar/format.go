package grammar

// formats are expressions, within ^ and $, for strings that have a format (JSON Schema validation 2020-12,
// section 7.3). Where a format has more than is useful, the expression has less, so that every string of it
// is valid: no leap seconds in times, e-mail addresses without quotes and comments, and so on.
var formats = map[string]string{
	"date":      date,
	"time":      clock,
	"date-time": "(?:" + date + ")T" + clock,
	"duration":  `P(?:\d{1,9}W|(?:\d{1,9}Y(?:\d{1,9}M(?:\d{1,9}D)?)?|\d{1,9}M(?:\d{1,9}D)?|\d{1,9}D)(?:T` + span24 + `)?|T` + span24 + `)`,
	"uuid":      `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`,
	"ipv4":      octet + `(?:\.` + octet + `){3}`,
	"ipv6":      `(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}|::|(?:[0-9a-f]{1,4}:){1,6}:[0-9a-f]{1,4}`,
	"hostname":  host,
	"email":     `[A-Za-z0-9_+-]{1,32}(?:\.[A-Za-z0-9_+-]{1,16})?@` + host,
	"uri":       `[a-z][a-z0-9+.-]{0,15}://` + host + `(?::[1-9]\d{0,3})?(?:/[A-Za-z0-9_.~-]{0,64}){0,16}(?:\?[A-Za-z0-9_.~&=+-]{0,128})?(?:#[A-Za-z0-9_.~-]{0,64})?`,
}

const (
	octet = `(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)`
	label = `[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?`
	host  = label + `(?:\.` + label + `){0,5}`

	date = `\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))|` +
		`(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29`
	clock = `(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)`
	// span24 is hours, minutes and seconds of a duration.
	span24 = `(?:\d{1,9}H(?:\d{1,9}M(?:\d{1,9}S)?)?|\d{1,9}M(?:\d{1,9}S)?|\d{1,9}S)`
)
