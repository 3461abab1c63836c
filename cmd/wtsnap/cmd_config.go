package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/whole-tale/wtsnap/cmd/wtsnap/config"
)

//go:embed example.toml
var exampleConfig string

func (a *app) configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "look at the configuration",
		Description: `Examples:

  wtsnap config example > /etc/wtsnap/wtsnap.toml
  wtsnap config check
  wtsnap config show`,
		Subcommands: []*cli.Command{
			{Name: "check", Usage: "say whether the configuration can be used", ArgsUsage: "[FILE]",
				Description: "Reads the configuration and says what is wrong with it, all at once, each with its line.\n\nExamples:\n\n  wtsnap config check\n  wtsnap config check ./wtsnap.toml",
				Action:      a.action(a.configCheck)},
			{Name: "show", Usage: "print what holds, without secrets",
				Description: "Prints the configuration as it was understood.\n\nExamples:\n\n  wtsnap config show\n  wtsnap config show --json",
				Action:      a.action(a.configShow)},
			{Name: "example", Usage: "print a configuration with comments",
				Description: "Examples:\n\n  wtsnap config example > wtsnap.toml",
				Action: a.action(func(*cli.Context) error {
					if _, err := a.arguments(0, 0, ""); err != nil {
						return err
					}
					a.result(map[string]string{"example": exampleConfig}, func(w io.Writer) { fmt.Fprint(w, exampleConfig) })
					return nil
				})},
			{Name: "schema", Usage: "print a JSON schema of the configuration",
				Description: "Prints a JSON schema, by which editors complete and check the configuration.\n\nExamples:\n\n  wtsnap config schema > wtsnap.schema.json",
				Action: a.action(func(*cli.Context) error {
					if _, err := a.arguments(0, 0, ""); err != nil {
						return err
					}
					data, err := json.MarshalIndent(configSchema(a.vocabulary()), "", "  ")
					if err != nil {
						return err
					}
					a.result(json.RawMessage(data), func(w io.Writer) { fmt.Fprintf(w, "%s\n", data) })
					return nil
				})},
		},
	}
}

// readsConfig reports whether a command reads the configuration: those that help to write one must work with a bad one.
func readsConfig(line *commandLine) bool {
	return !slices.Contains([]string{"wtsnap config check", "wtsnap config example", "wtsnap config schema", "wtsnap completion", "wtsnap version", "wtsnap kit join"}, line.name)
}

func (a *app) configCheck(c *cli.Context) error {
	args, err := a.arguments(0, 1, "")
	if err != nil {
		return err
	}
	path := c.String("config")
	if len(args) == 1 {
		path = args[0]
	}
	if err := a.loadConfig(path); err != nil {
		if e, ok := err.(*usageError); ok {
			e.hint = ""
		}
		return err
	}
	if a.config == nil {
		return usagef("wtsnap config example prints one", "there is no configuration")
	}
	// What only the machine can tell: secrets, exclude files, sources.
	for i := range a.config.Sources {
		s := &a.config.Sources[i]
		if _, err := a.configuredSource(s); err != nil {
			return usagef("", "%s: sources.%s: %v", shown(a.config.Path), s.Label, err)
		}
	}
	for _, al := range a.config.Alerts {
		for _, secret := range []*config.Secret{al.Notify, al.Ping} {
			if secret == nil {
				continue
			}
			if _, err := secret.Read(a.ctx); err != nil {
				return usagef("", "%s: alerts.%s: %v", shown(a.config.Path), al.Name, err)
			}
		}
	}
	a.done(map[string]string{"config": a.config.Path}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is in order: %s, %s, %s\n", shown(a.config.Path), plural(len(a.config.Sources), "source", "sources"),
			plural(len(a.config.Jobs), "job", "jobs"), plural(len(a.config.Alerts), "alert", "alerts"))
	})
	return nil
}

func (a *app) configShow(*cli.Context) error {
	if _, err := a.arguments(0, 0, ""); err != nil {
		return err
	}
	if a.config == nil {
		return usagef("wtsnap config example prints one", "there is no configuration")
	}
	doc := a.config.Redacted(a.vocabulary(), shownRepo)
	text, err := config.Format(doc)
	if err != nil {
		return err
	}
	a.result(doc, func(w io.Writer) { fmt.Fprintf(w, "# %s\n%s", shown(a.config.Path), text) })
	return nil
}

// configSchema describes the configuration to editors: https://json-schema.org/draft/2020-12.
func configSchema(v config.Vocabulary) map[string]any {
	object := func(properties map[string]any) map[string]any {
		return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	}
	text := map[string]any{"type": "string"}
	texts := map[string]any{"oneOf": []any{text, map[string]any{"type": "array", "items": text}}}
	named := func(of map[string]any) map[string]any {
		return map[string]any{"type": "object", "additionalProperties": of}
	}
	secret := map[string]any{"oneOf": []any{text, map[string]any{"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": false,
		"properties": map[string]any{"text": text, "file": text, "command": text, "credential": text, "env": text}}}}
	flags := func(flags map[string]config.Flag) map[string]any {
		out := map[string]any{}
		for name, f := range flags {
			p := map[string]any{"description": strings.ReplaceAll(f.Usage, "`", "")}
			switch f.Kind {
			case config.Bool:
				p["type"] = "boolean"
			case config.List:
				p["oneOf"] = texts["oneOf"]
			default:
				p["type"] = []string{"string", "number"}
			}
			out[name] = p
		}
		return out
	}
	hooks := object(map[string]any{"before": texts, "after": texts, "failed": texts, "finally": texts, "timeout": text})
	jobs := map[string]any{"steps": map[string]any{"type": "array", "items": stepSchema()}, "schedule": text, "jitter": text,
		"timeout": text, "max-age": text, "repository": text, "instance": text, "sources": texts, "hooks": hooks}
	source := flags(v.Source)
	source["from"], source["hooks"] = secret, hooks
	root := flags(v.Globals)
	for name, f := range v.Commands {
		root[name] = object(flags(f))
	}
	for _, step := range config.Steps {
		jobs[step] = root[step]
	}
	root["version"] = map[string]any{"const": 1}
	further := flags(v.Globals)
	for _, step := range config.ElsewhereSteps {
		further[step] = root[step]
	}
	root["repositories"] = named(object(further))
	root["sources"] = named(object(source))
	root["instances"] = named(object(map[string]any{"max-age": text, "max-drill-age": text, "max-check-age": text, "repository": text}))
	root["jobs"] = named(object(jobs))
	root["alerts"] = named(object(map[string]any{"notify": secret, "ping": secret, "text-file": text, "checkmk": text, "jobs": texts,
		"repeat": text, "on": map[string]any{"type": "array", "items": map[string]any{"enum": config.Events}}}))
	schema := object(root)
	schema["$schema"], schema["title"] = "https://json-schema.org/draft/2020-12/schema", "wtsnap.toml"
	return schema
}

// stepSchema describes a step of a job.
func stepSchema() map[string]any {
	here := slices.DeleteFunc(slices.Clone(config.Steps), func(step string) bool { return step == "copy" })
	there := append([]string{"copy"}, config.ElsewhereSteps...)
	return map[string]any{"anyOf": []any{map[string]any{"enum": here},
		map[string]any{"type": "string", "pattern": "^(" + strings.Join(there, "|") + ")@.+$"}}}
}
