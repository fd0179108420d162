//! Where simulated devices live.

/// A city with a mobile network in it.
#[derive(Debug)]
pub(crate) struct City {
    /// Latitude of its centre, in millionths of a degree.
    pub(crate) lat_e6: i32,
    /// Longitude of its centre, in millionths of a degree.
    pub(crate) lon_e6: i32,
    /// Country and network code of a mobile network there (ITU E.212).
    pub(crate) plmn: &'static str,
    /// Telephone country code, as it stands in the number of a SIM card (ITU E.118).
    pub(crate) country: &'static str,
}

/// Number of [`CITIES`].
pub(crate) const CITIES_COUNT: i32 = 100;

const fn city(lat_e3: i32, lon_e3: i32, plmn: &'static str, country: &'static str) -> City {
    City { lat_e6: lat_e3 * 1_000, lon_e6: lon_e3 * 1_000, plmn, country }
}

/// A hundred cities, centres rounded to 100 m.
#[rustfmt::skip]
pub(crate) static CITIES: [City; 100] = [
    city(52_370, 4_895, "20404", "31"), // Amsterdam
    city(37_984, 23_728, "20201", "30"), // Athens
    city(33_749, -84_388, "310260", "1"), // Atlanta
    city(-36_848, 174_763, "53001", "64"), // Auckland
    city(12_972, 77_595, "40445", "91"), // Bangalore
    city(13_756, 100_502, "52001", "66"), // Bangkok
    city(41_387, 2_170, "21401", "34"), // Barcelona
    city(44_787, 20_457, "22001", "381"), // Belgrade
    city(52_520, 13_405, "26201", "49"), // Berlin
    city(46_948, 7_447, "22801", "41"), // Bern
    city(52_486, -1_890, "23415", "44"), // Birmingham
    city(4_711, -74_072, "732101", "57"), // Bogota
    city(44_838, -579, "20801", "33"), // Bordeaux
    city(42_360, -71_059, "310410", "1"), // Boston
    city(48_149, 17_107, "23101", "421"), // Bratislava
    city(-27_470, 153_026, "50501", "61"), // Brisbane
    city(50_850, 4_352, "20601", "32"), // Brussels
    city(44_427, 26_102, "22610", "40"), // Bucharest
    city(47_498, 19_040, "21630", "36"), // Budapest
    city(-34_604, -58_382, "722310", "54"), // Buenos Aires
    city(-33_925, 18_424, "65501", "27"), // Cape Town
    city(41_878, -87_630, "310260", "1"), // Chicago
    city(50_938, 6_960, "26202", "49"), // Cologne
    city(55_676, 12_568, "23801", "45"), // Copenhagen
    city(-25_429, -49_267, "72405", "55"), // Curitiba
    city(32_777, -96_797, "310410", "1"), // Dallas
    city(28_644, 77_216, "40410", "91"), // Delhi
    city(39_739, -104_990, "310260", "1"), // Denver
    city(25_205, 55_271, "42402", "971"), // Dubai
    city(53_350, -6_260, "27201", "353"), // Dublin
    city(51_228, 6_774, "26203", "49"), // Dusseldorf
    city(55_953, -3_188, "23430", "44"), // Edinburgh
    city(43_770, 11_256, "22201", "39"), // Florence
    city(50_111, 8_682, "26201", "49"), // Frankfurt
    city(54_352, 18_646, "26002", "48"), // Gdansk
    city(46_204, 6_143, "22803", "41"), // Geneva
    city(57_709, 11_975, "24001", "46"), // Gothenburg
    city(47_071, 15_440, "23201", "43"), // Graz
    city(53_551, 9_994, "26202", "49"), // Hamburg
    city(21_028, 105_834, "45204", "84"), // Hanoi
    city(60_170, 24_938, "24491", "358"), // Helsinki
    city(22_319, 114_169, "45400", "852"), // Hong Kong
    city(29_760, -95_370, "310410", "1"), // Houston
    city(41_008, 28_978, "28601", "90"), // Istanbul
    city(-6_208, 106_846, "51010", "62"), // Jakarta
    city(-26_204, 28_047, "65510", "27"), // Johannesburg
    city(3_139, 101_687, "50212", "60"), // Kuala Lumpur
    city(50_065, 19_945, "26003", "48"), // Krakow
    city(35_012, 135_768, "44010", "81"), // Kyoto
    city(6_524, 3_379, "62130", "234"), // Lagos
    city(51_340, 12_375, "26203", "49"), // Leipzig
    city(50_629, 3_057, "20801", "33"), // Lille
    city(-12_046, -77_043, "71610", "51"), // Lima
    city(38_722, -9_139, "26801", "351"), // Lisbon
    city(46_057, 14_506, "29341", "386"), // Ljubljana
    city(51_507, -128, "23410", "44"), // London
    city(34_052, -118_244, "310260", "1"), // Los Angeles
    city(45_764, 4_836, "20801", "33"), // Lyon
    city(40_417, -3_704, "21407", "34"), // Madrid
    city(55_605, 13_004, "24007", "46"), // Malmo
    city(53_481, -2_242, "23410", "44"), // Manchester
    city(14_600, 120_984, "51502", "63"), // Manila
    city(43_296, 5_370, "20810", "33"), // Marseille
    city(-37_814, 144_963, "50501", "61"), // Melbourne
    city(19_433, -99_133, "334020", "52"), // Mexico City
    city(25_762, -80_192, "310410", "1"), // Miami
    city(45_464, 9_190, "22210", "39"), // Milan
    city(45_502, -73_567, "302720", "1"), // Montreal
    city(19_076, 72_878, "40420", "91"), // Mumbai
    city(48_135, 11_582, "26201", "49"), // Munich
    city(-1_292, 36_822, "63902", "254"), // Nairobi
    city(47_218, -1_554, "20801", "33"), // Nantes
    city(40_852, 14_268, "22201", "39"), // Naples
    city(40_713, -74_006, "310410", "1"), // New York
    city(49_452, 11_077, "26202", "49"), // Nuremberg
    city(34_694, 135_502, "44020", "81"), // Osaka
    city(59_914, 10_752, "24201", "47"), // Oslo
    city(48_857, 2_352, "20801", "33"), // Paris
    city(41_158, -8_629, "26806", "351"), // Porto
    city(50_075, 14_438, "23002", "420"), // Prague
    city(56_950, 24_106, "24701", "371"), // Riga
    city(41_903, 12_496, "22201", "39"), // Rome
    city(51_924, 4_478, "20408", "31"), // Rotterdam
    city(37_775, -122_419, "310260", "1"), // San Francisco
    city(-33_449, -70_669, "73001", "56"), // Santiago
    city(-23_551, -46_633, "72406", "55"), // Sao Paulo
    city(47_606, -122_332, "310260", "1"), // Seattle
    city(37_567, 126_978, "45005", "82"), // Seoul
    city(37_389, -5_984, "21403", "34"), // Seville
    city(1_352, 103_820, "52501", "65"), // Singapore
    city(59_329, 18_069, "24001", "46"), // Stockholm
    city(48_776, 9_183, "26202", "49"), // Stuttgart
    city(-33_869, 151_209, "50502", "61"), // Sydney
    city(25_033, 121_565, "46692", "886"), // Taipei
    city(59_437, 24_754, "24801", "372"), // Tallinn
    city(32_085, 34_782, "42501", "972"), // Tel Aviv
    city(35_677, 139_650, "44010", "81"), // Tokyo
    city(43_653, -79_383, "302720", "1"), // Toronto
    city(48_208, 16_374, "23201", "43"), // Vienna
    city(47_377, 8_541, "22801", "41"), // Zurich
];
