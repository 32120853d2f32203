-- Hold on to what is still the owner's. ARGV[3]: for how many microseconds. Returns 1 when it is.
if holder() ~= owner then
  return 0
end
return hold(ARGV[3])
