package corpus

import "testing"

func TestFateMeetsItsParts(t *testing.T) {
	const documents, nights = 200000, 7
	var deleted, updated float64
	for i := range documents {
		revision, alive := fate(42, i, 0, nights)
		if !alive {
			deleted++
		} else if revision > 0 {
			updated++
		}
	}
	if part := deleted / documents / nights; part < 0.9*deletedPart || part > 1.1*deletedPart {
		t.Errorf("%.5f of the documents deleted a night, want %.5f", part, deletedPart)
	}
	if part := updated / documents / nights; part < 0.9*updatedPart || part > 1.1*updatedPart {
		t.Errorf("%.5f of the documents updated a night, want %.5f", part, updatedPart)
	}
	if _, alive := fate(42, 7, nights, nights); !alive {
		t.Error("a document is deleted in the night in which it is inserted")
	}
}
