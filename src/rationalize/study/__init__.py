"""Human evaluation: blinded comparisons of rationales, answered by people or by a model."""
