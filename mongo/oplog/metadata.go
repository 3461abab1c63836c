package oplog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/whole-tale/wtsnap/mongo/layout"
)

// idIndex is the index of every collection, as servers up to 3.2 list it: their entries do not say it.
func idIndex(db, name string) bson.Raw {
	key := newElement(bson.TypeEmbeddedDocument, "key", edit(nil, nil, int32Element("_id", 1)))
	return edit(nil, nil, int32Element("v", 1), key, stringElement("name", "_id_"), stringElement("ns", db+"."+name))
}

func int32Element(name string, n int32) element {
	return newElement(bson.TypeInt32, name, binary.LittleEndian.AppendUint32(nil, uint32(n)))
}

func boolElement(name string) element { return newElement(bson.TypeBoolean, name, []byte{1}) }

// seriesOptions are the options of a buckets collection that are the time series' own.
var seriesOptions = []string{"storageEngine", "indexOptionDefaults", "collation", "timeseries", "expireAfterSeconds"}

// createdMetadata returns the metadata of a collection from the entry of its creation.
func createdMetadata(db, name, uuid string, spec bson.Raw) layout.Metadata {
	options := edit(spec, []string{"create", "idIndex", "lsid", "$db", "writeConcern"})
	m := layout.Metadata{Name: realName(name), Type: layout.TypeCollection}
	if _, series := find(options, "timeseries"); series {
		m.Type = layout.TypeTimeseries
		var keep []element
		_ = each(options, func(e element) error {
			if slices.Contains(seriesOptions, string(e.name)) {
				keep = append(keep, e)
			}
			return nil
		})
		options = edit(nil, nil, keep...)
	} else if uuid != "" {
		m.UUID = hex.EncodeToString([]byte(uuid))
	}
	m.Options = options
	index, has := find(spec, "idIndex")
	clustered, isClustered := find(spec, "clusteredIndex")
	none, autoID := find(spec, "autoIndexId")
	n, _ := none.integer()
	switch {
	case has && index.typ == bson.TypeEmbeddedDocument:
		m.Indexes = []bson.Raw{bytes.Clone(index.value)}
	case m.Type == layout.TypeTimeseries:
		m.Indexes = []bson.Raw{} // the buckets' is not listed
	case isClustered && clustered.typ == bson.TypeEmbeddedDocument:
		m.Indexes = []bson.Raw{edit(clustered.value, nil, boolElement("clustered"))}
	case autoID && n == 0:
		m.Indexes = []bson.Raw{}
	default:
		m.Indexes = []bson.Raw{idIndex(db, name)}
	}
	return m
}

// result returns the metadata with its JSON.
func (n *coll) result() (layout.Metadata, error) {
	m := n.meta
	if !n.edited {
		return m, nil
	}
	data, err := layout.MarshalMetadata(&m)
	m.JSON = data
	return m, err
}

func (n *coll) renamed() {
	if n.edited = true; n.meta.Name != "" {
		n.meta.Name = n.name
	}
	for i, index := range n.meta.Indexes {
		if _, ok := find(index, "ns"); ok {
			n.edited = true
			n.meta.Indexes[i] = edit(index, nil, stringElement("ns", n.db+"."+n.name))
		}
	}
}

func indexNameOf(spec bson.Raw) string {
	e, _ := find(spec, "name")
	name, _ := e.str()
	return name
}

// addIndex adds an index, or replaces the one of its name.
func (n *coll) addIndex(spec bson.Raw) error {
	if indexNameOf(spec) == "" {
		return errors.New("an index without a name")
	}
	spec = edit(spec, []string{"indexBuildUUID"})
	if n.meta.IsTimeseries() {
		var err error
		if spec, err = n.seriesIndex(spec); err != nil {
			return err
		}
	}
	n.edited = true
	n.meta.Indexes = slices.Clone(n.meta.Indexes)
	for i, old := range n.meta.Indexes {
		if indexNameOf(old) == indexNameOf(spec) {
			n.meta.Indexes[i] = spec
			return nil
		}
	}
	n.meta.Indexes = append(n.meta.Indexes, spec)
	return nil
}

// abortIndex removes an index that a dump listed while it was built.
func (n *coll) abortIndex(spec bson.Raw) error {
	n.removeIndex(func(old bson.Raw) bool { return indexNameOf(old) == indexNameOf(spec) })
	return nil
}

func (n *coll) removeIndex(which func(old bson.Raw) bool) {
	kept := slices.DeleteFunc(slices.Clone(n.meta.Indexes), which)
	if len(kept) != len(n.meta.Indexes) {
		n.meta.Indexes, n.edited = kept, true
	}
}

// dropIndexes removes what a command names: a name, a key, a list of names, or "*".
func (n *coll) dropIndexes(o bson.Raw) error {
	which, ok := find(o, "index")
	if !ok {
		return errors.New("it does not say which index to drop")
	}
	isID := func(index bson.Raw) bool {
		key, _ := find(index, "key")
		return slices.Equal(names(key.value), []string{"_id"})
	}
	switch which.typ {
	case bson.TypeString:
		name, _ := which.str()
		n.removeIndex(func(old bson.Raw) bool { return name == "*" && !isID(old) || indexNameOf(old) == name })
	case bson.TypeEmbeddedDocument:
		n.removeIndex(func(old bson.Raw) bool {
			key, ok := find(old, "key")
			return ok && string(appendKey(nil, key)) == string(appendKey(nil, which))
		})
	case bson.TypeArray:
		return each(which.value, func(e element) error {
			name, ok := e.str()
			if !ok {
				return errors.New("it drops an index without a name")
			}
			n.removeIndex(func(old bson.Raw) bool { return indexNameOf(old) == name })
			return nil
		})
	default:
		return errors.New("it does not say which index to drop")
	}
	return nil
}

// seriesIndex translates an index of the buckets to what the time series lists.
func (n *coll) seriesIndex(spec bson.Raw) (bson.Raw, error) {
	if original, ok := find(spec, "originalSpec"); ok && original.typ == bson.TypeEmbeddedDocument {
		return bytes.Clone(original.value), nil
	}
	series, _ := find(n.meta.Options, "timeseries")
	timeField, _ := find(series.value, "timeField")
	metaField, hasMeta := find(series.value, "metaField")
	t, _ := timeField.str()
	meta, _ := metaField.str()
	key, ok := find(spec, "key")
	if !ok || key.typ != bson.TypeEmbeddedDocument || t == "" {
		return nil, errors.New("an index of a time series without a key")
	}
	var w writer
	at := w.begin()
	var half string // of a pair control.min.X, control.max.X
	err := each(key.value, func(e element) error {
		name := string(e.name)
		minimum, isMin := strings.CutPrefix(name, "control.min.")
		maximum, isMax := strings.CutPrefix(name, "control.max.")
		switch {
		case isMin || isMax:
			field := minimum
			if isMax {
				field = maximum
			}
			if half == "" {
				half = field
				w.named([]byte(field), e)
				return nil
			}
			if half != field {
				return fmt.Errorf("an index of the buckets with the key %q", name)
			}
			half = ""
		case hasMeta && half == "" && name == "meta":
			w.named([]byte(meta), e)
		case hasMeta && half == "" && strings.HasPrefix(name, "meta."):
			w.named([]byte(meta+name[len("meta"):]), e)
		default:
			return fmt.Errorf("an index of the buckets with the key %q", name)
		}
		return nil
	})
	if err == nil && half != "" {
		err = fmt.Errorf("an index of the buckets with half of a key, %q", half)
	}
	if err != nil {
		return nil, err
	}
	w.end(at)
	return edit(spec, nil, newElement(bson.TypeEmbeddedDocument, "key", w.buf)), nil
}

// ignoredMods are parts of a collMod that change nothing that a dump says.
var ignoredMods = map[string]bool{"collMod": true, "writeConcern": true, "comment": true, "lsid": true, "$db": true,
	"usePowerOf2Sizes": true, "noPadding": true, "timeseriesBucketsMayHaveMixedSchemaData": true,
	"removeLegacyTimeseriesBucketingParametersHaveChanged": true, "isTimeseriesNamespace": true}

// collMod changes options and indexes.
func (n *coll) collMod(o bson.Raw) error {
	return each(o, func(e element) error {
		name := string(e.name)
		e = newElement(e.typ, name, e.value)
		switch name {
		case "index":
			return n.modIndex(e)
		case "validator":
			n.setOption(e, len(e.value) == emptyDocument)
		case "validationLevel", "validationAction", "recordPreImages", "pipeline", "viewOn":
			n.setOption(e, false)
		case "changeStreamPreAndPostImages":
			n.setOption(e, !isTrue(e.value, "enabled"))
		case "expireAfterSeconds":
			off, _ := e.str()
			n.setOption(e, off == "off")
		case "cappedSize":
			n.setOption(newElement(e.typ, "size", e.value), false)
		case "cappedMax":
			n.setOption(newElement(e.typ, "max", e.value), false)
		case "timeseries":
			old, _ := find(n.meta.Options, "timeseries")
			var set []element
			if e.typ != bson.TypeEmbeddedDocument || old.typ != bson.TypeEmbeddedDocument {
				return errors.New("a collMod of a time series that is none")
			}
			_ = each(e.value, func(f element) error { set = append(set, f); return nil })
			n.setOption(newElement(e.typ, name, edit(old.value, nil, set...)), false)
		default:
			if !ignoredMods[name] {
				return fmt.Errorf("a collMod of %q is unknown here", name)
			}
		}
		return nil
	})
}

func (n *coll) setOption(e element, remove bool) {
	n.edited = true
	if remove {
		n.meta.Options = edit(n.meta.Options, []string{string(e.name)})
		return
	}
	n.meta.Options = edit(n.meta.Options, nil, e)
}

// modIndex changes an index: its expiry, whether it is hidden or unique.
func (n *coll) modIndex(e element) error {
	if e.typ != bson.TypeEmbeddedDocument {
		return errors.New("a collMod of an index that does not say which")
	}
	name, byName := find(e.value, "name")
	key, byKey := find(e.value, "keyPattern")
	var drop []string
	var set []element
	err := each(e.value, func(f element) error {
		on, _ := f.integer()
		switch field := string(f.name); field {
		case "name", "keyPattern":
		case "expireAfterSeconds":
			set = append(set, f)
		case "hidden", "prepareUnique", "unique":
			if on == 0 {
				drop = append(drop, field)
				break
			}
			set = append(set, f)
			if field == "unique" {
				drop = append(drop, "prepareUnique")
			}
		case "forceNonUnique":
			drop = append(drop, "unique")
		default:
			return fmt.Errorf("a collMod of an index's %q is unknown here", field)
		}
		return nil
	})
	if err != nil {
		return err
	}
	n.meta.Indexes = slices.Clone(n.meta.Indexes)
	for i, index := range n.meta.Indexes {
		wanted, _ := name.str()
		old, _ := find(index, "key")
		if byName && indexNameOf(index) == wanted || !byName && byKey && bytes.Equal(old.value, key.value) {
			n.meta.Indexes[i], n.edited = edit(index, drop, set...), true
		}
	}
	return nil
}
