-- Mammograms as DICOM files, and what the screening centre knows of the women, to the contract
-- `mammographies` of the pilot deep_piste.
CREATE TEMP VIEW views AS
SELECT
    patient AS femme,
    lower(incidence) || CASE laterality WHEN 'R' THEN '_droit' WHEN 'L' THEN '_gauche' END AS vue,
    image
FROM dicom
WHERE incidence IN ('CC', 'MLO');

SELECT v.femme, v.vue, w.age, w.densite, w.cancer, v.image
FROM views AS v
JOIN women AS w USING (femme);
